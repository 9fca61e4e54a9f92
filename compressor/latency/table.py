"""The latency table: what a block at a level costs inside a whole model, fitted from whole models.

T = step + head
         + sum over attention blocks (attention + query_head * q + kv_head * kv)
         + sum over FFN blocks (ffn + channel * width, of experts + expert_channel * experts * width)

`head` is what the language-model head takes, which grows with the vocabulary's rows and which no plan prunes.
Models with few rows take that share of it. All is fitted by least squares (errors relative to T) over whole
models whose widths differ on purpose. A block timed alone misleads: its weights stay in the processor's
caches.

All but `step` is by format: blocks whose weights have 8 bits, and a head that has, count in `attention@8`,
`channel@8`, `head@8` and so on instead.

Engines compute in tiles. Where the times show it, widths count as rounded up to a tile, found by trying
each: then a level costs what the widest of its tile costs, and a search takes that one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lathe.artefact.errors import UserError
from lathe.artefact.plan import WEIGHT_BITS, LayerShape, Plan
from lathe.artefact.report_format import LatencyPrecision, PartsOfLatency
from lathe.compressor.latency.expected_terms import expectations
from lathe.compressor.latency.workload import Workload
from lathe.compressor.search.space import Choices, Constraint

FORMAT = "lathe-latency/3"
TERMS = ("step", "head", "attention", "query_head", "kv_head", "ffn", "channel")
EXPERT_TERMS = (*TERMS, "expert_channel")
ROUNDED_TERMS = tuple(f"{term}@{bits}" for bits in WEIGHT_BITS if bits for term in TERMS[1:])
TILES = (16, 32, 64, 128, 256)
_PRECISE = 0.01
"""Times with a smaller relative standard error than this count alike."""
_REPEATS, _OUTLIER = 10, 2.0
"""A time that is further off than so many standard errors counts less, and what is expected counts (see
`expected_terms.py`): where weights are rounded, whose terms are many, and times have errors."""
_NOISE, _CONVINCING = 0.005, 0.5
"""A tile counts when widths as they are leave a larger relative error than the first, and the tile at most
the second as a share of that."""


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds per term, the measured models they were fitted to, and a factor learnt from artefacts.

    Attributes:
        fingerprint: the machine and the versions that it holds for.
        terms: milliseconds by the names of TERMS, and of those of ROUNDED_TERMS that were measured.
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
        """Milliseconds of the head with the whole vocabulary, as the checkpoint has it."""
        return self.terms["head"] * self.correction

    @property
    def fixed_ms(self) -> float:
        """Milliseconds that every plan takes with such a head: the step itself and the head."""
        return self.terms["step"] * self.correction + self.head_ms

    def head_in(self, bits: int) -> float:
        """Returns the milliseconds of the head with the whole vocabulary in so many bits; 0: not rounded.

        Raises:
            UserError: it was not measured so.
        """
        self._check_formats(Plan((), bits))
        return self.terms[f"head@{bits}" if bits else "head"] * self.correction

    def predict(self, plan: Plan) -> float:
        """Returns the milliseconds of a whole model.

        Raises:
            UserError: it has formats that were not measured.
        """
        self._check_formats(plan)
        values = np.array(list(self.terms.values()))
        return float(features(plan, self.tile, self.terms) @ values) * self.correction

    def _check_formats(self, plan: Plan) -> None:
        missing = [term for term in occurring(ROUNDED_TERMS, [plan]) if term not in self.terms]
        if missing:
            raise UserError(
                f"the latency table has no times of {missing[0].replace('@', ' in ')} bits",
                "Measure a table of these formats: leave --profile out.",
            )

    def parts(self, plan: Plan) -> PartsOfLatency:
        """Milliseconds of a whole model by part: the step itself, the head, and every layer's two blocks."""
        return {
            "step": self.terms["step"] * self.correction,
            "head": self.head_in(plan.head_bits),
            "attention": [self._block(LayerShape.of(p.attention_level, 0)) for p in plan],
            "ffn": [self._block(LayerShape.of((0, 0), p.ffn_level)) for p in plan],
        }

    def _block(self, layer: LayerShape) -> float:
        """Returns the milliseconds of the blocks of a layer."""
        return self.predict(Plan((layer,))) - self.fixed_ms

    def corrected(self, factor: float) -> LatencyTable:
        """Returns a table whose predictions are multiplied by a factor."""
        return replace(self, correction=self.correction * factor)

    def constraint(self, space: Choices, limit_ms: float) -> Constraint:
        """Returns the limit of so many milliseconds as a constraint of a search.

        Args:
            space: The levels of blocks.
            limit_ms: Milliseconds.

        Raises:
            UserError: the space has formats that were not measured.
        """
        return Constraint(
            "latency",
            "ms",
            limit_ms,
            self.terms["step"] * self.correction,
            {level: self._block(LayerShape.of(level, 0)) for level in space.levels("attention")},
            {level: self._block(LayerShape.of((0, 0), level)) for level in space.levels("ffn")},
            {bits: self.head_in(bits) for bits in space.levels("head")},
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
    named = [term.partition("@") for term in terms]
    counts = {bits: _counts(plan, tile, head, bits) for bits in {int(bits or 0) for _, _, bits in named}}
    return np.array([counts[int(bits or 0)][term] for term, _, bits in named])


def occurring(terms: Iterable[str], plans: Iterable[Plan]) -> list[str]:
    """Returns those of some terms that occur in plans."""
    names, plans = list(terms), [plan for plan in plans if plan.rounded]
    counts = sum((features(plan, 1, names) for plan in plans), np.zeros(len(names)))
    return [name for name, count in zip(names, counts, strict=True) if count]


def _counts(plan: Plan, tile: int, head: float, bits: int) -> dict[str, float]:
    """Returns how often each term occurs in blocks of so many bits, and in a head of as many."""
    attention = [p for p in plan if p.kv_heads and p.attention_bits == bits]
    ffn = [p for p in plan if p.ffn and p.ffn_bits == bits]
    tiled = [-(-p.ffn // tile) * tile for p in ffn]
    return {
        "step": 1.0,
        "head": head * (plan.head_bits == bits),
        "attention": len(attention),
        "query_head": sum(p.query_heads for p in attention),
        "kv_head": sum(p.kv_heads for p in attention),
        "ffn": len(ffn),
        "channel": sum(tiled),
        "expert_channel": sum(p.experts * width for p, width in zip(ffn, tiled, strict=True)),
    }


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
    plain, error = _terms(plans, milliseconds, heads, known, 1)
    fits = [(*_terms(plans, milliseconds, heads, known, tile), tile) for tile in TILES]
    terms, least, tile = min(fits, key=lambda found: found[1])
    return (terms, tile) if least < _CONVINCING * error and error > _NOISE else (plain, 1)


def _terms(
    plans: Sequence[Plan],
    milliseconds: Sequence[float],
    heads: Sequence[float],
    errors: np.ndarray,
    tile: int,
) -> tuple[dict[str, float], float]:
    """The terms for a tile, and the root mean square of the relative errors they leave."""
    times, names = np.array(milliseconds), EXPERT_TERMS if any(p.experts for p in plans[0]) else TERMS
    rounded = occurring(ROUNDED_TERMS, plans)
    names = (*names, *rounded)
    counts = np.stack([features(p, tile, names, head) for p, head in zip(plans, heads, strict=True)])
    active = [i for i in range(len(names)) if np.ptp(counts[:, i]) > 0 or i == 0]
    relative, precise = counts / times[:, None], np.maximum(errors, _PRECISE)
    weights = _PRECISE / precise
    values = _non_negative(relative * weights[:, None], weights, active)
    noise = float(np.median(errors[1:])) if rounded else 0.0
    for _ in range(_REPEATS if noise else 0):
        off = np.abs(relative @ values - 1) / precise
        weights = _PRECISE / precise * np.sqrt(np.minimum(1.0, _OUTLIER / np.maximum(off, _OUTLIER)))
        expected = expectations(names, values, noise)
        design = np.vstack([relative * weights[:, None], expected])
        values = _non_negative(design, np.concatenate([weights, np.zeros(len(expected))]), active)
    error = np.sqrt(np.sum((weights * (relative @ values - 1)) ** 2) / np.sum(weights**2))
    return dict(zip(names, values.tolist(), strict=True)), float(error)


def _non_negative(design: np.ndarray, wanted: np.ndarray, active: Sequence[int]) -> np.ndarray:
    """Returns the values of least squares; those that are not active or would be negative are 0."""
    left, values = [*active], np.zeros(design.shape[1])
    while True:
        found, *_ = np.linalg.lstsq(design[:, left], wanted, rcond=None)
        worst = int(found.argmin())
        if found[worst] >= 0:
            break
        del left[worst]
    values[left] = found
    return values
