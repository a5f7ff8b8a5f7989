"""The ranker clients."""
