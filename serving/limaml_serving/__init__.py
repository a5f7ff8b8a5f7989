"""Serving: the ranker client and the embedded TensorFlow Serving server."""
