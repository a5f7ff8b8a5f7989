"""Two SavedModels and one manifest for each model version."""
