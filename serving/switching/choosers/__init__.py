"""One chooser in each file, registered by its name."""
