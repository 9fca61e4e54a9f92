"""Latencies of plans from a few timed models, for a forecast: what `lathe plan` knows in seconds.

    T(plan) = step + share(head's bits) * head + sum over blocks share(bits) * ms_per_parameter * parameters

The dense model in each format and the smallest subnet give all of it: a format is taken to make the head and
every block faster alike. A latency table tells them apart, and takes a minute or more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lathe.artefact.plan import LayerShape, ModelShape, Plan
from lathe.compressor.latency.built_models import TimedModel
from lathe.compressor.latency.effort import QUICK
from lathe.compressor.latency.ends import Ends
from lathe.compressor.latency.measure import LatencyBenchmark
from lathe.compressor.search.space import Choices, Constraint

_LEAST = 1e-6
"""Milliseconds; measured differences that are less are noise."""


def dense_in_formats(benchmark: LatencyBenchmark, bits: tuple[int, ...]) -> dict[int, float]:
    """Times the dense model quickly with all its weights in each of some numbers of bits.

    Returns:
        Its time over that of the dense model as it is, by the bits.
    """
    if not bits:
        return {}
    dense = benchmark.source.shape.dense_plan
    models = [TimedModel(dense), *(TimedModel(dense.in_bits(count, count)) for count in bits)]
    found = benchmark.time(models, QUICK, f"measure: dense in {' and '.join(map(str, bits))} bits")
    return {count: comparison.ratio for count, comparison in zip(bits, found, strict=True)}


@dataclass(frozen=True)
class RoughTable:
    """Milliseconds of parts.

    Attributes:
        shape: The dense model's dimensions.
        step: Of what is neither a block nor the head.
        head: Of the head, not rounded.
        decoder: Of all blocks of the dense model, not rounded.
        shares: What head and blocks take in so many bits, as a share of that; 0: not rounded.
    """

    shape: ModelShape
    step: float
    head: float
    decoder: float
    shares: Mapping[int, float]

    @classmethod
    def of(cls, shape: ModelShape, ends: Ends, smallest: Plan, dense: Mapping[int, float]) -> RoughTable:
        """Solves for the parts.

        Args:
            shape: The dense model's dimensions.
            ends: Of the dense model, not rounded, and of the smallest subnet.
            smallest: The smallest subnet; its head and all its blocks have the same bits.
            dense: The dense model's time with all its weights in so many bits, over that of `ends`.
        """
        times = {0: ends.unpruned} | {bits: ratio * ends.unpruned for bits, ratio in dense.items()}
        kept, bits = shape.kept(smallest), smallest.head_bits
        rounded = max(times[bits] - ends.floor, _LEAST) / (1 - kept)
        step = max(0.0, ends.floor - ends.head - kept * rounded)
        whole = max(times[0] - step, _LEAST)
        shares = {count: max(ms - step, _LEAST) / whole for count, ms in times.items()}
        decoder = min(rounded / shares[bits], whole)
        return cls(shape, step, whole - decoder, decoder, shares)

    def constraint(self, space: Choices, limit_ms: float) -> Constraint:
        """Returns the limit of so many milliseconds as a constraint of a search over a space."""
        return Constraint(
            "latency",
            "ms",
            limit_ms,
            self.step,
            {level: self._block(LayerShape.of(level, 0)) for level in space.levels("attention")},
            {level: self._block(LayerShape.of((0, 0), level)) for level in space.levels("ffn")},
            {bits: self.shares[bits] * self.head for bits in space.levels("head")},
        )

    def predict(self, plan: Plan) -> float:
        """Returns the milliseconds of a whole model."""
        blocks = sum(
            self._block(part)
            for layer in plan
            for part in (LayerShape.of(layer.attention_level, 0), LayerShape.of((0, 0), layer.ffn_level))
        )
        return self.step + self.shares[plan.head_bits] * self.head + blocks

    def _block(self, layer: LayerShape) -> float:
        """Returns the milliseconds of a layer with one block."""
        bits = layer.attention_bits or layer.ffn_bits
        return self.shares[bits] * self.decoder * self.shape.kept((layer,))
