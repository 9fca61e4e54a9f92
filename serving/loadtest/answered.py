"""Which models answered, and how many requests of a load were within limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lathe.serving.loadtest import slo as slos
from lathe.serving.loadtest.measure import Round
from lathe.serving.loadtest.sample import Sample
from lathe.serving.loadtest.slo import Slo

DEFINITIONS = {
    "answered_by": "successful requests by the model that their answers name, of one server with several"
}
SLO_DEFINITIONS = {**slos.DEFINITIONS, "judged": "all requests of the rounds, failed ones included"}


def answered_json(rounds: Sequence[Round], slo: Slo | None) -> dict[str, Any]:
    """Returns what the requests of all rounds kept of `slo`, if it is given, and who answered them."""
    samples = [sample for one in rounds for sample in one.samples]
    names = sorted({sample.model for sample in samples if sample.ok and sample.model is not None})
    found: dict[str, Any] = {} if slo is None else {"slo": slo.evaluate(samples).as_json()}
    found["answered_by"] = {
        name: _of([sample for sample in samples if sample.ok and sample.model == name], slo) for name in names
    }
    return found


def _of(samples: Sequence[Sample], slo: Slo | None) -> dict[str, Any]:
    counts: dict[str, Any] = {
        "requests": len(samples),
        "output_tokens": sum(sample.output_tokens for sample in samples),
    }
    return counts if slo is None else counts | {"within": round(slo.evaluate(samples).within, 4)}
