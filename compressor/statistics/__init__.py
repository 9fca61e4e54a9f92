"""Second moments of the inputs of output projections, layer by layer."""

from lathe.compressor.statistics.collect import LastingStatistics, LayerStatistics, collect_layer
from lathe.compressor.statistics.gram import Gram

__all__ = ["Gram", "LastingStatistics", "LayerStatistics", "collect_layer"]
