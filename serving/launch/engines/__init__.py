"""The engines that serve: one module each, found by name."""
