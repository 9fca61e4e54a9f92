"""Exporters: an artefact's files from a dense source, a plan and its pruned tensors.

An exporter is one module (or package) beside this one that registers itself; it is found by being there.
"""

from lathe.compressor.export.base import Export, Exporter, destinations, exporters, quantizers, rules_of

__all__ = ["Export", "Exporter", "destinations", "exporters", "quantizers", "rules_of"]
