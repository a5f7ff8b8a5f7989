"""Comparison of LiMAML with other models on the same rows and features, over several seeds."""
