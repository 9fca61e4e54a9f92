"""Checks that transformers reads a checkpoint as we do."""
