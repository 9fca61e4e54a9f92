"""The dense model with quantized weights: int8 per channel, int4 in groups of 32, by the product's rounding.

It is what any subnet has to beat at equal bytes; no calibration text is read. `keep` is ignored: no parameter
goes, every keep asked has the same row, and `weight_bytes` says what is stored. Computed in float32 with the
dequantized weights; embeddings and head stay as they are, as for all baselines.
"""

from __future__ import annotations

from benchmarks.quality.formats import INT4, INT8, Format
from benchmarks.quality.setting import Setting, Subnet, baselines


@baselines.register("int8")
def int8(setting: Setting, keep: float) -> Subnet:  # noqa: ARG001
    return quantized(setting, INT8)


@baselines.register("int4")
def int4(setting: Setting, keep: float) -> Subnet:  # noqa: ARG001
    return quantized(setting, INT4)


def quantized(setting: Setting, form: Format) -> Subnet:
    """Returns the dense model at any bit width."""
    layers, size = form.store(setting.layers)
    return setting.subnet(layers, weight_bytes=size)
