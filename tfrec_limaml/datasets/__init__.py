"""Public data sets in the toolkit's raw layout."""
