"""Devices, arrays on disk, workers and progress: the means of a run."""

from lathe.compressor.compute.first_calls import first_calls

first_calls()
