"""How much adaptation can gain on a data set, before training."""
