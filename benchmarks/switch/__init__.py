"""A server that switches between subnets under a ramp, beside dense model and smallest subnet alone."""
