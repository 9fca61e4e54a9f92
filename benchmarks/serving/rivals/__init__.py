"""One file for each rival; `benchmarks.serving.rival` finds them."""
