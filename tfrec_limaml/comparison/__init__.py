"""LiMAML beside its rivals: the same rows and features, over several seeds."""
