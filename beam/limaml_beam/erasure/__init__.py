"""Erasure: task keys go from stores, and from the files that the jobs wrote."""
