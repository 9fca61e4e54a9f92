"""What `--method policy-gradient` is made of: masks over units, and their probabilities."""
