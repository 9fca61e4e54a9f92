"""The stages of a compression, the run directory, and resuming."""

from compressor.pipeline.compress import Outcome, compress
from compressor.pipeline.options import Options

__all__ = ["Options", "Outcome", "compress"]
