"""The scales of an int8 KV cache, measured on the subnet as it is served, in the run directory."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.cache_rounding import CacheScales
from lathe.compressor.model.rounded_tensors import dequantized
from lathe.compressor.pipeline.calibrate import CalibrationResult
from lathe.compressor.pipeline.reconstruct import stored_layer
from lathe.compressor.pipeline.round import RoundedLayers
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.pipeline.run_directory import Tensors
from lathe.compressor.statistics.cache_scales import TOKENS, measure_cache_scales

Scales = dict[int, CacheScales]
"""Of layers with attention, by index."""


def cache_scales(
    context: RunContext, calibration: CalibrationResult, name: str, rounded: str | None
) -> Scales | None:
    """Returns the scales; None where the graph's KV cache is not int8.

    Args:
        context: The run.
        calibration: The text.
        name: The name of the finished layers in the run directory.
        rounded: The name of the rounded ones, where there are some.
    """
    if not context.options.int8_cache:
        return None
    measure = partial(_measure, context, calibration, name, rounded)
    found = context.run_dir.tensors(f"cache-{rounded or name}", measure)
    layers = sorted(int(part.partition(".")[0]) for part in found if part.endswith(".keys"))
    return {i: CacheScales(found[f"{i}.keys"], found[f"{i}.values"]) for i in layers}


def _measure(context: RunContext, calibration: CalibrationResult, name: str, rounded: str | None) -> Tensors:
    store, model = context.store, calibration.model

    def served(index: int) -> Weights:
        layer = dict(stored_layer(context, name, index))
        return layer | (dequantized(RoundedLayers(context.run_dir.path, rounded)(index)) if rounded else {})

    subnet = replace(model, layers=store.load(len(model.layers), served))
    with context.progress.stage("scales of the KV cache: layers", len(model.layers)) as bar:
        found = measure_cache_scales(subnet, calibration.fitted(TOKENS), store, bar.advance)
    return {
        f"{index}.{part}": getattr(scales, part)
        for index, scales in found.items()
        for part in ("keys", "values")
    }
