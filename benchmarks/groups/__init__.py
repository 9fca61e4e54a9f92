"""Groups of columns that share a scale: one size for all matrices against a size for each."""
