"""What the columns of a data set are."""
