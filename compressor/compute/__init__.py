"""Devices, arrays on disk, workers and progress: the means of a run."""
