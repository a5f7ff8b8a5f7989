"""The columns of a data set."""
