"""Beam pipelines: labelled data to task records to meta embeddings."""
