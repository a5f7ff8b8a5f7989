"""Trains models on folders of task records."""
