"""The dense model with quantized weights: int8 per channel, int4 in groups of 32, by the product's rounding.

It is what any subnet has to beat at equal bytes; no calibration text is read. For `int8` and `int4`, `keep`
is ignored: no parameter goes, every keep asked has the same row. `rounded` has as many bits, eight at most,
as fit the bytes of a subnet that keeps `keep` of the parameters and stores them in two bytes each. What is
stored is `weight_bytes`. Computed in float32 with the dequantized weights; embeddings and head stay as they
are, as for all baselines.
"""

from __future__ import annotations

from benchmarks.quality.formats import FLOAT16, INT4, INT8, Format, widest
from benchmarks.quality.setting import Setting, Subnet, baselines
from lathe.artefact.errors import UserError


@baselines.register("int8")
def int8(setting: Setting, keep: float) -> Subnet:  # noqa: ARG001
    return quantized(setting, INT8)


@baselines.register("int4")
def int4(setting: Setting, keep: float) -> Subnet:  # noqa: ARG001
    return quantized(setting, INT4)


@baselines.register("rounded")
def rounded(setting: Setting, keep: float) -> Subnet:
    found = widest(setting.layers, keep * FLOAT16.store(setting.layers)[1])
    if found is None:
        raise UserError(f"rounded: the dense model does not fit {keep:.0%} of its float16 bytes in 2 bits")
    form, layers, size = found
    return setting.subnet(layers, weight_bytes=size, facts={"format": str(form)})


def quantized(setting: Setting, form: Format) -> Subnet:
    """Returns the dense model at any bit width."""
    layers, size = form.store(setting.layers)
    return setting.subnet(layers, weight_bytes=size)
