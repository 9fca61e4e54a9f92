"""Profiles: latency tables of one model shape on one machine, in a file to search with on another one."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lathe.artefact.errors import UserError
from lathe.artefact.plan import ModelShape
from lathe.compressor.latency.table import LatencyTable
from lathe.compressor.latency.workload import Workload

FORMAT = "lathe-profile/1"


@dataclass(frozen=True)
class Profile:
    """shape: of the dense model that was timed, as JSON. tables: one for every metric, batch and context."""

    backend: str
    shape: dict[str, Any]
    tables: list[LatencyTable]

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "backend": self.backend,
            "shape": self.shape,
            "tables": [table.to_json() for table in self.tables],
        }

    def table(self, backend: str, shape: ModelShape, workload: Workload) -> LatencyTable:
        """The table of a workload; between two contexts that were timed, interpolated.

        Raises:
            UserError: the profile is of another backend or model shape, or does not cover the workload.
        """
        if backend != self.backend:
            raise UserError(
                f"the profile is of {self.backend}, not of {backend}",
                f"Make one: lathe profile MODEL --backend {backend} -o FILE.",
            )
        if shape.to_json() != self.shape:
            raise UserError(
                "the profile is of a model with other dimensions", "Make one: lathe profile MODEL -o FILE."
            )
        alike = sorted(
            (t for t in self.tables if _same(t.workload, workload)), key=lambda t: t.workload.context
        )
        below = [t for t in alike if t.workload.context <= workload.context]
        above = [t for t in alike if t.workload.context >= workload.context]
        if not below or not above:
            raise UserError(
                f"the profile does not cover {_words(workload)}",
                f"It has {'; '.join(_words(t.workload) for t in self.tables)}.",
            )
        return _between(below[-1], above[0], workload)

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Reads a profile.

        Raises:
            UserError: the file cannot be read, or is no profile.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8-sig"))
            if document["format"] != FORMAT:
                raise UserError(f"{path} is not a profile of this version: `format` is not `{FORMAT}`")
            tables = [LatencyTable.from_json(table) for table in document["tables"]]
            return cls(str(document["backend"]), dict(document["shape"]), tables)
        except OSError as error:
            raise UserError(f"cannot read the profile {path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise UserError(f"{path} is not a profile: {error!r}", "Make one: lathe profile.") from None


def _between(low: LatencyTable, high: LatencyTable, workload: Workload) -> LatencyTable:
    """Attention's terms grow linearly with the context, those of a prefill nearly so."""
    first, last = low.workload.context, high.workload.context
    if first == last:
        return low
    share = (workload.context - first) / (last - first)

    def mix(a: float, b: float) -> float:
        return a + share * (b - a)

    nearest = low if share < 0.5 else high
    row = nearest.rows[0] | {"dense_ms": mix(low.dense_ms, high.dense_ms), "interpolated": [first, last]}
    terms = {name: mix(value, high.terms[name]) for name, value in low.terms.items()}
    return replace(nearest, workload=workload, terms=terms, rows=[row])


def _words(workload: Workload) -> str:
    output = f", output tokens {workload.output_tokens}" if workload.metric == "e2e" else ""
    return f"{workload.metric} at batch size {workload.batch_size}, context {workload.context}{output}"


def _same(timed: Workload, requested: Workload) -> bool:
    """Returns whether workloads are the same but for context and for output tokens that do not count."""
    tokens = timed.output_tokens if requested.metric == "e2e" else requested.output_tokens
    return replace(timed, context=requested.context, output_tokens=tokens) == requested
