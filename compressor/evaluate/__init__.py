"""Scores the quality of a model, loaded as any user would load it."""

from lathe.compressor.evaluate.perplexity import Quality, quality

__all__ = ["Quality", "quality"]
