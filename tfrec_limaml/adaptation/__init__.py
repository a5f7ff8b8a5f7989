"""The inner loop: per-task weights, cheaper forms of them, losses and pooling."""
