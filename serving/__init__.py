"""Serve artefacts over an OpenAI-compatible API, measure them, and load-test them."""
