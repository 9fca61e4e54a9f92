"""The serving commands."""
