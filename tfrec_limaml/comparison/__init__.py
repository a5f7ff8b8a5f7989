"""LiMAML beside what people already have: the same rows and features, over several seeds."""
