"""The latency table: what a block at a level costs inside a whole model, fitted from whole models.

T = step + head
         + sum over attention blocks (attention + query_head * q + kv_head * kv)
         + sum over FFN blocks (ffn + channel * width, of experts + expert_channel * experts * width)

`head` is what the language-model head takes, which grows with the vocabulary's rows and which no plan prunes.
Models with few rows take that share of it. All is fitted by least squares (errors relative to T) over whole
models whose widths differ on purpose. A block timed alone misleads: its weights stay in the processor's
caches.

Engines compute in tiles. Where the times show it, widths count as rounded up to a tile, found by trying
each: then a level costs what the widest of its tile costs, and a search takes that one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lathe.artefact.errors import UserError
from lathe.artefact.plan import LayerShape, Plan, Width
from lathe.artefact.report_format import LatencyPrecision, PartsOfLatency
from lathe.compressor.latency.workload import Workload
from lathe.compressor.search.space import Constraint, Space

FORMAT = "lathe-latency/3"
TERMS = ("step", "head", "attention", "query_head", "kv_head", "ffn", "channel")
EXPERT_TERMS = (*TERMS, "expert_channel")
TILES = (16, 32, 64, 128, 256)
_PRECISE = 0.01
"""Times with a smaller relative standard error than this count alike."""
_NOISE, _CONVINCING = 0.005, 0.5
"""A tile counts when widths as they are leave a larger relative error than the first, and the tile at most
the second as a share of that."""


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds per term, the measured models they were fitted to, and a factor learnt from artefacts.

    Attributes:
        fingerprint: the machine and the versions that it holds for.
        terms: milliseconds by the names of TERMS.
        rows: the models that were measured, the dense one first.
        correction: what predictions are multiplied by.
        tile: FFN channels that are computed together, 1 where no cliff shows.
        estimate: what the figures were computed from where nothing was measured.
        precision: how precisely the models were measured against the dense one, where they were.
    """

    workload: Workload
    fingerprint: dict[str, object]
    terms: dict[str, float]
    rows: list[dict[str, Any]]
    correction: float = 1.0
    tile: int = 1
    estimate: str | None = None
    precision: LatencyPrecision | None = None

    @property
    def dense_ms(self) -> float:
        """The dense model, from the table (so that speed-ups are ratios of like with like)."""
        return float(self.rows[0]["dense_ms"])

    @property
    def head_ms(self) -> float:
        """Milliseconds of the head with the whole vocabulary."""
        return self.terms["head"] * self.correction

    @property
    def fixed_ms(self) -> float:
        """Milliseconds that every plan takes: the step itself and the head."""
        return self.terms["step"] * self.correction + self.head_ms

    def predict(self, plan: Plan) -> float:
        """Milliseconds of a whole model."""
        values = np.array(list(self.terms.values()))
        return float(features(plan, self.tile, self.terms) @ values) * self.correction

    def parts(self, plan: Plan) -> PartsOfLatency:
        """Milliseconds of a whole model by part: the step itself, the head, and every layer's two blocks."""

        def block(layer: LayerShape) -> float:
            return self.predict(Plan((layer,))) - self.fixed_ms

        return {
            "step": self.terms["step"] * self.correction,
            "head": self.head_ms,
            "attention": [block(LayerShape(p.query_heads, p.kv_heads, 0)) for p in plan],
            "ffn": [block(LayerShape.of((0, 0), p.width)) for p in plan],
        }

    def corrected(self, factor: float) -> LatencyTable:
        """Returns a table whose predictions are multiplied by a factor."""
        return replace(self, correction=self.correction * factor)

    def constraint(self, space: Space, limit_ms: float) -> Constraint:
        """Returns the limit of so many milliseconds as a constraint of a search."""
        fixed = self.fixed_ms
        return Constraint(
            "latency",
            "ms",
            limit_ms,
            fixed,
            {h: self.predict(Plan((LayerShape(*h, 0),))) - fixed for h in space.attention},
            {w: self.predict(Plan((LayerShape.of((0, 0), w),))) - fixed for w in space.ffn},
        )

    def to_json(self) -> dict[str, Any]:
        """The document of `lathe profile`."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> LatencyTable:
        """The inverse of `to_json`.

        Raises:
            UserError: it is no such document.
        """
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise UserError(
                f"not a latency table of this version: `format` must be `{FORMAT}`",
                "Measure it again: lathe profile.",
            )
        values = {k: v for k, v in document.items() if k != "format"}
        return cls(**{**values, "workload": Workload(**values["workload"])})


def features(plan: Plan, tile: int = 1, terms: Iterable[str] = TERMS, head: float = 1.0) -> np.ndarray:
    """Returns how often each term occurs in a plan, in order; channels are rounded up to tiles.

    `head` is the share of the vocabulary's rows that the model has.
    """
    tiled = [-(-p.ffn // tile) * tile for p in plan]
    counts = {
        "step": 1.0,
        "head": head,
        "attention": sum(bool(p.kv_heads) for p in plan),
        "query_head": sum(p.query_heads for p in plan),
        "kv_head": sum(p.kv_heads for p in plan),
        "ffn": sum(bool(p.ffn) for p in plan),
        "channel": sum(tiled),
        "expert_channel": sum(p.experts * width for p, width in zip(plan, tiled, strict=True)),
    }
    return np.array([counts[term] for term in terms])


def fit(
    plans: Sequence[Plan],
    milliseconds: Sequence[float],
    heads: Sequence[float],
    errors: Sequence[float] | None = None,
) -> tuple[dict[str, float], int]:
    """Returns the non-negative terms and the tile that fit the times best, by relative error.

    Args:
        plans: The models' plans.
        milliseconds: What the models took.
        heads: The shares of the vocabulary's rows that they have.
        errors: The relative standard errors of the times: precise ones count more.
    """
    known = np.zeros(len(plans)) if errors is None else np.array(errors)
    weights = _PRECISE / np.maximum(known, _PRECISE)
    plain, error = _terms(plans, milliseconds, heads, weights, 1)
    fits = [(*_terms(plans, milliseconds, heads, weights, tile), tile) for tile in TILES]
    terms, least, tile = min(fits, key=lambda found: found[1])
    return (terms, tile) if least < _CONVINCING * error and error > _NOISE else (plain, 1)


def _terms(
    plans: Sequence[Plan],
    milliseconds: Sequence[float],
    heads: Sequence[float],
    weights: np.ndarray,
    tile: int,
) -> tuple[dict[str, float], float]:
    """The terms for a tile, and the root mean square of the relative errors they leave."""
    times, names = np.array(milliseconds), EXPERT_TERMS if any(p.experts for p in plans[0]) else TERMS
    counts = np.stack([features(p, tile, names, head) for p, head in zip(plans, heads, strict=True)])
    design = counts * (weights / times)[:, None]
    active = [i for i in range(len(names)) if np.ptp(counts[:, i]) > 0 or i == 0]
    while True:
        values, *_ = np.linalg.lstsq(design[:, active], weights, rcond=None)
        worst = int(values.argmin())
        if values[worst] >= 0:
            break
        del active[worst]
    terms = dict.fromkeys(names, 0.0)
    terms.update({names[i]: float(v) for i, v in zip(active, values, strict=True)})
    return terms, float(np.sqrt(np.sum((design[:, active] @ values - weights) ** 2) / np.sum(weights**2)))


def designs(space: Space, dense: Plan, layers: int, seed: int = 0) -> list[Plan]:
    """Returns whole models of `layers` layers that identify the terms.

    Dense comes first, then models with one kind of block narrowed or dropped in every layer, then three
    random mixtures: at most 11 in all, 13 with experts, fewer where some are the same.
    """
    top, widths = dense[0], _spread(space.ffn[1:-1], 3)
    head, groups = space.attention[:-1], sorted({kv for _, kv in space.attention[:-1]})
    half_kv = groups[len(groups) // 2 - 1] if len(groups) > 1 else groups[0]
    same_ratio = half_kv * top.heads_per_group
    swaps = [
        top,
        LayerShape.of((same_ratio, half_kv), top.width),
        LayerShape.of((0, 0), top.width),
        LayerShape.of((top.kv_heads, top.kv_heads), top.width),
        *(
            LayerShape.of((top.query_heads, top.kv_heads), w)
            for w in dict.fromkeys(
                [*(widths if top.experts else widths[-1:]), *_across_a_tile(space.widths[:-1])]
            )
        ),
        LayerShape(top.query_heads, top.kv_heads, 0),
    ]
    rng, fed = np.random.default_rng(seed), space.ffn[:-1]
    plans = [Plan((swap,) * layers) for swap in swaps]
    plans[2] = Plan((top, *[swaps[2]] * (layers - 1)))
    for _ in range(3):
        plans.append(
            Plan(
                tuple(
                    LayerShape.of(space.attention[rng.integers(len(head))], fed[rng.integers(len(fed))])
                    for _ in range(layers)
                )
            )
        )
    return list(dict.fromkeys(plans))


def _across_a_tile(widths: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the roundest level in the middle half, and the next wider one.

    If there is a cliff, it is between them.
    """
    inner = [i for i in range(len(widths)) if widths[0] // 4 <= widths[i] <= 3 * widths[0] // 4]
    if not inner or inner[0] == 0:
        return ()
    roundest = max(inner, key=lambda i: widths[i] & -widths[i])
    return widths[roundest - 1 : roundest + 1]


def _spread(values: tuple[Width, ...], count: int) -> list[Width]:
    if len(values) <= count:
        return list(values)
    return [values[round((i + 1) * (len(values) - 1) / (count + 1))] for i in range(count)]
