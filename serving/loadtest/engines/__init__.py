"""Load testers that can send a round: one module each, found by name."""
