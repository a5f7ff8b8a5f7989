"""Embedding stores: one protocol, two backends (LMDB and Redis)."""
