"""Erasure: removes task keys from stores and from the files that the jobs wrote."""
