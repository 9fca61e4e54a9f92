"""Estimates for hardware that is not at hand: milliseconds from datasheet bandwidth and peak throughput.

Every matrix takes the longer of moving its bytes and doing its arithmetic (the roofline model, Williams et
al., CACM 52(4), 2009), at the shares of the datasheet's figures that good kernels reach. A tile, a kernel
launch or a busy host is not seen: measure where it matters.
"""

from __future__ import annotations

from dataclasses import dataclass

from lathe.artefact.errors import UserError
from lathe.artefact.plan import ModelShape
from lathe.compressor.latency.table import LatencyTable
from lathe.compressor.latency.workload import Workload

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_BANDWIDTH_SHARE, _PEAK_SHARE = 0.8, 0.6
_BLOCK_MS, _STEP_MS = 0.004, 0.05


@dataclass(frozen=True)
class Device:
    """gigabytes: of memory. bandwidth: GB/s. tflops: dense 16-bit matrix products with 32-bit sums."""

    gigabytes: float
    bandwidth: float
    tflops: float


DEVICES = {
    "a10": Device(24, 600, 125),
    "a100-40gb": Device(40, 1555, 312),
    "a100-80gb": Device(80, 2039, 312),
    "b200": Device(180, 8000, 2250),
    "h100-pcie": Device(80, 2000, 756),
    "h100-sxm": Device(80, 3350, 989),
    "h200": Device(141, 4800, 989),
    "l4": Device(24, 300, 121),
    "l40s": Device(48, 864, 362),
    "rtx-4090": Device(24, 1008, 165),
    "t4": Device(16, 320, 65),
}
"""From the makers' datasheets; without sparsity."""


def estimate(shape: ModelShape, workload: Workload, hardware: str, dtype: str) -> LatencyTable:
    """A table that was computed, not measured; it says so in `estimate`.

    Raises:
        UserError: the hardware or the dtype is unknown, or the metric is a mixture.
    """
    if hardware not in DEVICES:
        raise UserError(f"there is no datasheet for `{hardware}`", f"Known: {', '.join(DEVICES)}.")
    if dtype not in BYTES:
        raise UserError(f"there is no dtype `{dtype}`", f"Known: {', '.join(BYTES)}.")
    if workload.metric not in ("tpot", "ttft"):
        raise UserError(f"{workload.metric} cannot be estimated", "Ask for tpot or ttft.")
    if shape.experts:
        raise UserError(
            "mixtures of experts cannot be estimated: what is read depends on the tokens",
            "Measure them, without --hardware.",
        )
    terms = _terms(shape, workload, DEVICES[hardware], BYTES[dtype])
    source = f"roofline of {hardware}, {dtype}"
    table = LatencyTable(workload, {"processor": hardware, "dtype": dtype}, terms, [], estimate=source)
    dense = shape.dense_plan
    table.rows.append({"plan": dense.to_json(), "dense_ms": table.predict(dense)})
    return table


def _terms(shape: ModelShape, workload: Workload, device: Device, width: int) -> dict[str, float]:
    d, h, context = shape.hidden_size, shape.head_dim, workload.context
    prefill = workload.metric == "ttft"
    tokens = context if prefill else workload.batch_size
    peak = device.tflops * (0.5 if width == 4 else 1.0) * 1e12 * _PEAK_SHARE
    bandwidth = device.bandwidth * 1e9 * _BANDWIDTH_SHARE

    def matrix(weights: float, uses: float = tokens) -> float:
        return 1e3 * max(weights * width / bandwidth, 2 * weights * uses / peak)

    cached = context / 2 if prefill else float(context)
    scores = 1e3 * 4 * tokens * cached * h / peak
    cache = 0.0 if prefill else matrix(2 * workload.batch_size * context * h, 0)
    return {
        "step": _STEP_MS,
        "head": matrix(shape.vocab_size * d, 1 if prefill else tokens),
        "attention": _BLOCK_MS,
        "query_head": matrix(2 * d * h) + scores,
        "kv_head": matrix(2 * d * h) + cache,
        "ffn": _BLOCK_MS,
        "channel": matrix(3 * d),
    }
