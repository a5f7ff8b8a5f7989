"""Estimates, before training, how much adaptation can gain on a data set."""
