"""Dense with rounded weights: int8 per channel, int4 in groups of 32, round-to-nearest (compressor/quantize).

What any subnet has to beat at equal bytes; no calibration text is read. `keep` is ignored: no parameter
goes, every keep asked has the same row, and `weight_bytes` says what is stored. Computed in float32 with the
dequantized weights; embeddings and head stay as they are, like everybody's.
"""

from __future__ import annotations

from benchmarks.quality.setting import Setting, Subnet, baselines
from lathe.compressor.model.quantize import quantize_layer

INT4_GROUP = 32


@baselines.register("int8")
def int8(setting: Setting, keep: float) -> Subnet:  # noqa: ARG001
    return rounded(setting, 8, None)


@baselines.register("int4")
def int4(setting: Setting, keep: float) -> Subnet:  # noqa: ARG001
    return rounded(setting, 4, INT4_GROUP)


def rounded(setting: Setting, bits: int, group: int | None) -> Subnet:
    """The dense model at any bit width."""
    layers, sizes = zip(*(quantize_layer(layer, bits, group) for layer in setting.layers), strict=True)
    return setting.subnet(list(layers), weight_bytes=sum(sizes))
