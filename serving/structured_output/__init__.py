"""Grammars that constrain what a model may generate: JSON schemas, patterns, tools."""
