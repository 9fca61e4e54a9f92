"""Weights of about one bit: signs, with masks and scales that say what they stand for."""
