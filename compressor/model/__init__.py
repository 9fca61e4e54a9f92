"""The dense model: its checkpoint, its family, and running it block by block."""
