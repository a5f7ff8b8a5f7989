"""From a folder of task records to a trained model."""
