"""The stages of a compression, the run directory, and resuming."""
