"""Personalise deep recommender models with LiMAML."""
