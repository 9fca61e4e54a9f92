"""Slots that take memory in pages beside slots that take all of it: memory, speed, shared prompts."""
