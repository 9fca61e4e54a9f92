"""The rows of a comparison, and the document that keeps them from run to run."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from benchmarks.bits.settings import Settings
from benchmarks.bits.variants import REFERENCE, VARIANTS, Variant
from lathe.artefact.atomic_files import write_json
from lathe.artefact.errors import UserError
from lathe.serving.loadtest.document import machine

FORMAT = "lathe-bench-bits/1"
MADE, ALREADY_MET, REFUSED = "made", "already-met", "refused"
_PACKAGES = ("lathe", "torch", "transformers", "onnxruntime", "numpy")
_DEFINITIONS = {
    "target": "speed-up over the dense model in float32",
    "ratio": "milliseconds of a step over those of the dense model in float32, taking turns with it",
    "standard_error": "of a ratio: relative to it, over loads; of a loss increase: over windows",
    "loss": "nats per token in ONNX Runtime, of GGUF files in llama.cpp",
    "weight_bytes": "of all initializers or tensors, scales, embedding and head included",
    "mean_bits": "of the decoder's weights that are left, without scales (GGUF: with); float32 has 32",
    "conversions": "milliseconds of the dense model in a format over those in float32, random weights",
}


@dataclass
class Row:
    """One artefact at one batch size.

    Attributes:
        variant: Its kind, by name.
        target: The speed-up over the dense model in float32 that it was made for; None for a dense model.
        batch_size: That it was made for and is timed at.
        status: `made`; `already-met`: the dense model in that format is as fast; `refused`: the target is out
            of reach. Empty: nothing was tried yet.
        reason: Why it was refused.
        facts: Its plan and what `compress` said of it.
        time: What was measured of it; empty until then.
        score: Its loss and its bytes; empty until then.
    """

    variant: str
    target: float | None
    batch_size: int
    status: str = ""
    reason: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    time: dict[str, Any] = field(default_factory=dict)
    score: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return self.variant if self.target is None else f"{self.variant} {self.target:g}x"

    @property
    def kind(self) -> Variant:
        """Its variant."""
        return VARIANTS[self.variant]

    @property
    def artefact(self) -> str:
        """The name of its artefact; a dense model is the same for all batch sizes."""
        return self.variant if self.target is None else self.artefact_of(self.variant)

    @property
    def rounds(self) -> str:
        """The name of the artefact that it rounds to nearest; its own where it is made from the model."""
        return self.artefact if self.target is None else self.artefact_of(self.kind.of)

    def artefact_of(self, variant: str) -> str:
        """Returns the name of another variant's artefact of the same target and batch size."""
        return f"{variant}-{self.target:g}x-batch{self.batch_size}"

    @property
    def complete(self) -> bool:
        """Whether it is timed and scored."""
        return bool(self.time and self.score)


class Document:
    """Rows of earlier runs and of this one, on disk after every change."""

    def __init__(self, settings: Settings) -> None:
        """Reads what an earlier run left.

        Raises:
            UserError: its rows are of other settings, or the file is no such document.
        """
        self._out = settings.out
        found = self._read(settings.facts)
        self.conversions: dict[str, dict[str, float]] = found.get("conversions", {})
        rows = [Row(**row) for row in found.get("rows", [])]
        self._rows = {(row.artefact, row.batch_size): row for row in rows}
        self._head = {
            "format": FORMAT,
            "command": shlex.join(["python", "-m", "benchmarks.bits", *sys.argv[1:]]),
            "machine": machine(),
            "versions": {name: version(name) for name in _PACKAGES},
            "settings": settings.facts,
            "definitions": _DEFINITIONS,
        }
        self.results: dict[str, Any] = {}

    def _read(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        if not self._out.exists():
            return {}
        try:
            found = json.loads(self._out.read_text())
        except ValueError:
            found = None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise UserError(f"{self._out} holds something else", "Choose another --out.")
        if found["settings"] != json.loads(json.dumps(settings)):
            raise UserError(f"{self._out} has rows of other settings", "Choose another --out, or remove it.")
        return found

    def rows(self, settings: Settings) -> list[Row]:
        """Returns the rows that settings ask for, in the order to make them in; known ones as they are."""
        return [self._rows.setdefault((row.artefact, row.batch_size), row) for row in asked(settings)]

    def change(self, **results: Any) -> None:
        """Writes the document; `results` are added to it."""
        self.results |= results
        self._out.parent.mkdir(parents=True, exist_ok=True)
        rows = [asdict(row) for row in self._rows.values() if row.status]
        write_json(self._out, self._head | {"conversions": self.conversions, "rows": rows, **self.results})

    def conversion(self, batch_size: int, backend: str, measure: Callable[[], float]) -> float:
        """Returns milliseconds of the dense model on a backend over those in float32; measured once."""
        known = self.conversions.setdefault(str(batch_size), {})
        if backend not in known:
            known[backend] = measure()
            self.change()
        return known[backend]


def asked(settings: Settings) -> Iterator[Row]:
    """Yields a row for each artefact and batch size; the reference is the first of each batch size."""
    for batch_size in settings.batch_sizes:
        for variant in settings.variants:
            targets: tuple[float | None, ...] = settings.targets if variant.searched else (None,)
            yield from (Row(variant.name, target, batch_size) for target in targets)


def reference(rows: list[Row], batch_size: int) -> Row:
    """Returns the row of the dense model in float32."""
    return next(row for row in rows if (row.variant, row.batch_size) == (REFERENCE, batch_size))
