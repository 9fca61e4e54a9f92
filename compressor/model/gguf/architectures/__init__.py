"""Architectures of GGUF files, one declaration each, found by `general.architecture`."""

from lathe.compressor.model.gguf.architectures.base import Architecture, architecture_of, architectures

__all__ = ["Architecture", "architecture_of", "architectures"]
