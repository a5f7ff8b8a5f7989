"""Exports a model version as two SavedModels with one manifest."""
