"""Exporters: an artefact's files from a dense source, a plan and its cut tensors."""
