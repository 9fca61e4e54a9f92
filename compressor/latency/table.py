"""The latency table: what a block at a level costs inside a whole model, fitted from whole models.

T = step + sum over attention blocks (attention + query_head * q + kv_head * kv)
         + sum over FFN blocks (ffn + channel * width)

fitted by least squares (errors relative to T) over whole models whose widths differ on purpose. A
block timed alone misleads: its weights stay in the processor's caches.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from compressor.errors import UserError
from compressor.latency.bench import Timing
from compressor.latency.workload import Workload
from compressor.plan import LayerShape, Plan
from compressor.search.space import Constraint, Space

FORMAT = "lathe-latency/1"
TERMS = ("step", "attention", "query_head", "kv_head", "ffn", "channel")


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds per term, the measured models they were fitted to, and a factor learnt from artefacts."""

    workload: Workload
    fingerprint: dict[str, object]
    terms: dict[str, float]
    rows: list[dict[str, Any]]
    correction: float = 1.0

    @property
    def dense_ms(self) -> float:
        """The dense model, from the table (so that speed-ups are ratios of like with like)."""
        return float(self.rows[0]["dense_ms"])

    @property
    def spread(self) -> float:
        """How unquiet the machine was: distance of the quartiles of the dense turns over their median."""
        return Timing(self.rows[0]["turns_ms"]).spread

    def predict(self, plan: Plan) -> float:
        """Milliseconds of a whole model."""
        values = np.array([self.terms[t] for t in TERMS])
        return float(features(plan) @ values) * self.correction

    def corrected(self, factor: float) -> LatencyTable:
        return replace(self, correction=self.correction * factor)

    def constraint(self, space: Space, limit_ms: float) -> Constraint:
        fixed = self.terms["step"] * self.correction
        return Constraint(
            "latency", "ms", limit_ms, fixed,
            {h: self.predict(Plan((LayerShape(*h, 0),))) - fixed for h in space.attention},
            {w: self.predict(Plan((LayerShape(0, 0, w),))) - fixed for w in space.ffn},
        )

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> LatencyTable:
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise UserError(f"not a latency table: `format` must be `{FORMAT}`")
        values = {k: v for k, v in document.items() if k != "format"}
        return cls(**{**values, "workload": Workload(**values["workload"])})


def features(plan: Plan) -> np.ndarray:
    """How often each term occurs in a plan, in the order of TERMS."""
    return np.array(
        [
            1.0,
            sum(bool(p.kv_heads) for p in plan),
            sum(p.query_heads for p in plan),
            sum(p.kv_heads for p in plan),
            sum(bool(p.ffn) for p in plan),
            sum(p.ffn for p in plan),
        ]
    )


def fit(plans: list[Plan], milliseconds: list[float]) -> dict[str, float]:
    """Non-negative terms that explain the times best, relative errors weighted alike."""
    times = np.array(milliseconds)
    design = np.stack([features(p) for p in plans]) / times[:, None]
    active = [i for i in range(len(TERMS)) if np.ptp([features(p)[i] for p in plans]) > 0 or i == 0]
    while True:
        values, *_ = np.linalg.lstsq(design[:, active], np.ones(len(times)), rcond=None)
        worst = int(values.argmin())
        if values[worst] >= 0:
            break
        del active[worst]
    terms = dict.fromkeys(TERMS, 0.0)
    terms.update({TERMS[i]: float(v) for i, v in zip(active, values, strict=True)})
    return terms


def designs(space: Space, dense: Plan, layers: int, seed: int = 0) -> list[Plan]:
    """Whole models that tell the terms apart: dense first, the floor, each kind of block swapped
    everywhere or dropped, and mixtures. All have `layers` layers."""
    top = dense[0]
    head, groups = space.attention[:-1], sorted({kv for _, kv in space.attention[:-1]})
    half_kv = groups[len(groups) // 2 - 1] if len(groups) > 1 else groups[0]
    same_ratio = half_kv * top.heads_per_group
    swaps = [
        top,
        LayerShape(same_ratio, half_kv, top.ffn),
        LayerShape(*min(head), top.ffn),
        LayerShape(0, 0, top.ffn),
        LayerShape(top.kv_heads, top.kv_heads, top.ffn),
        *(LayerShape(top.query_heads, top.kv_heads, w) for w in _spread(space.ffn[1:-1], 3)),
        LayerShape(top.query_heads, top.kv_heads, 0),
    ]
    rng = np.random.default_rng(seed)
    plans = [Plan((swap,) * layers) for swap in swaps]
    plans[3] = Plan((top, *[swaps[3]] * (layers - 1)))
    for _ in range(3):
        plans.append(Plan(tuple(
            LayerShape(*space.attention[rng.integers(len(head))], int(rng.choice(space.ffn[:-1])))
            for _ in range(layers)
        )))
    return list(dict.fromkeys(plans))


def _spread(values: tuple[int, ...], count: int) -> list[int]:
    if len(values) <= count:
        return list(values)
    return [values[round((i + 1) * (len(values) - 1) / (count + 1))] for i in range(count)]
