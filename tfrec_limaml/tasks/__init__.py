"""Task records: their format, parsing, batches for training, statistics and the feature encoder."""
