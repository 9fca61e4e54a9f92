"""Exporters: an artefact's files from a dense source, a plan and its cut tensors.

An exporter is one module (or package) beside this one that calls `register`; it is found by being there.
"""

from compressor.export.base import Export, Exporter, exporter, known, register

__all__ = ["Export", "Exporter", "exporter", "known", "register"]
