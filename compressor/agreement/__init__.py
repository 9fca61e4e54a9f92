"""Whether transformers reads a checkpoint as we do."""
