"""Calibration text: where it comes from, and how it becomes token windows."""

from lathe.compressor.calibration.tokens import Calibration, load_calibration, token_windows

__all__ = ["Calibration", "load_calibration", "token_windows"]
