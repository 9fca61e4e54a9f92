"""GGUF files: their headers, and the tokenizers in them."""
