"""Search engines on the same space, the same milliseconds and the same reconstruction."""
