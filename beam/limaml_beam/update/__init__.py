"""Micro-batches between nightly runs: the tasks of new interactions are adapted again."""
