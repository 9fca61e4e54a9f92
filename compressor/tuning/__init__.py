"""Tuning of the options of `compress`: trials of the whole pipeline, as a black box."""
