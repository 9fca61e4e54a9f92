"""N:M patterns: of every M consecutive inputs of a row, at most N weights are not zero."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from lathe.artefact.errors import UserError
from lathe.artefact.plan import LayerShape, ModelShape, Plan

MOST = 8
"""The largest M: all sets of a group are compared, and their number grows fast."""


@dataclass(frozen=True)
class Pattern:
    """A pattern such as 2:4.

    Attributes:
        kept: N, the weights of a group that stay.
        group: M, the weights of a group.
    """

    kept: int
    group: int

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Reads what `--pattern` was given.

        Raises:
            UserError: it is no pattern.
        """
        found = re.fullmatch(r"(\d+):(\d+)", text.strip(), re.ASCII)
        if found is None:
            raise UserError(f"--pattern {text} is not a pattern", "Write N:M, such as 2:4.")
        kept, group = map(int, found.groups())
        if not 0 < kept < group:
            raise UserError(
                f"--pattern {text} keeps {kept} of {group} weights",
                "Give N:M with N from 1 to M - 1, such as 2:4.",
            )
        if group > MOST:
            raise UserError(f"--pattern {text} has groups of {group}", f"Give an M of at most {MOST}.")
        return cls(kept, group)

    def __str__(self) -> str:
        return f"{self.kept}:{self.group}"

    @property
    def removed(self) -> list[tuple[int, ...]]:
        """The sets of places in a group that can be removed."""
        return [*combinations(range(self.group), self.group - self.kept)]

    def check(self, shape: ModelShape, plan: Plan, name: str) -> None:
        """Checks that groups fill the rows of every matrix of a plan.

        Args:
            shape: The dense model's dimensions.
            plan: The widths.
            name: What the model is called.

        Raises:
            UserError: they do not; names the first matrix and its width.
        """
        for index, layer in enumerate(plan):
            for matrix, width in _inputs(shape, layer):
                if width % self.group:
                    raise UserError(
                        f"{matrix} in layer {index} of {name} reads {width} values, which groups of "
                        f"{self.group} do not divide",
                        "Give a --pattern N:M whose M divides it.",
                    )


def _inputs(shape: ModelShape, layer: LayerShape) -> Iterator[tuple[str, int]]:
    """Yields the matrices of a layer that read different things, and how many values each reads."""
    if layer.kv_heads:
        yield "q_proj", shape.hidden_size
        yield "o_proj", layer.query_heads * shape.head_dim
    if layer.ffn:
        yield "up_proj", shape.hidden_size
        yield "down_proj", layer.ffn
