"""The inner loop and what it needs: per-task weights, their cheaper forms, losses and pooling."""
