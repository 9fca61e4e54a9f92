"""The stages of a compression, the run directory, and resuming."""

from lathe.compressor.pipeline.compress import Outcome, compress
from lathe.compressor.pipeline.options import Options

__all__ = ["Options", "Outcome", "compress"]
