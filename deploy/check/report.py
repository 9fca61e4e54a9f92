"""One row per check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """`findings` are what a person has to mend; what held has none."""

    check: str
    result: str
    findings: Sequence[str] = ()

    @property
    def held(self) -> bool:
        return not self.findings

    def print(self) -> None:
        print(f"{'held' if self.held else 'BROKEN':7}{self.check:44}{self.result}", flush=True)
        for finding in self.findings:
            print(f"{'':9}{finding}", flush=True)
