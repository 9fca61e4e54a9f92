"""One-bit weights: what binarizations lose, and what they take, masks and scales counted."""
