"""GGUF files as models: read, checked, and converted to a Hugging Face checkpoint in Lathe's cache."""

from lathe.compressor.model.gguf.convert import checkpoint_directory, directory_of

__all__ = ["checkpoint_directory", "directory_of"]
