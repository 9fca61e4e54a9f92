"""The stages of `lathe compress` by what they do: their titles differ between commits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple


class Stage(NamedTuple):
    """One kind of work, and the titles that it has had."""

    name: str
    titles: str


STAGES = (
    Stage("measure: dense and floor", r"measure: dense and the smallest subnet( \(.*\))?"),
    Stage("calibration text", r"calibrate: .*"),
    Stage("calibrate and rank", r"calibrate and (order|rank): layers"),
    Stage("measure: latency table", r"measure: latency table( \(.*\))?"),
    Stage(
        "search: sensitivities",
        r"search: ((damage|sensitivity) of each block at each level|sensitivity of each block to rounding)",
    ),
    Stage("search: plans", r"search: (plans|the paper's evolution|policy gradient|steps of saliency|gates)"),
    Stage("measure: plan", r"measure: the plan against dense( \(.*\))?"),
    Stage("reconstruct: layers", r"(reform|reconstruct): layers"),
    Stage("reconstruct: text", r"(reform|reconstruct): the model writes more text"),
    Stage("reconstruct: whole subnet", r"(reform|reconstruct): the whole subnet"),
    Stage("prune to a pattern", r"prune to .*: layers"),
    Stage("round: gradients", r"round: gradients"),
    Stage("round: layers", r"round: layers"),
    Stage("scales of the KV cache", r"scales of the KV cache: layers"),
    Stage("export", r"export: .*"),
    Stage(
        "verify: quality",
        r"verify: (reload, parity, perplexity, samples|the whole vocabulary|the int8 KV cache|what .* costs)",
    ),
    Stage("verify: latency", r"verify: the artefact against dense( \(.*\))?"),
)
"""In the order of a run. A further iteration begins anew with a search or a reconstruction."""
END = "end"
"""What follows the last stage: the report, and moving the artefact into place."""
NAMES = (*(stage.name for stage in STAGES), END)
_ITERATION_ENDS = NAMES.index("export")


def stage_name(title: str | None) -> str:
    """Returns what a stage does, from its title; a title that nobody listed is its own name."""
    if title is None:
        return END
    return next((stage.name for stage in STAGES if re.fullmatch(stage.titles, title)), title)


@dataclass(frozen=True, order=True)
class Place:
    """How far a run has come: in which iteration, and up to which stage."""

    iteration: int = 0
    stage: int = -1

    def after(self, name: str) -> Place:
        """Returns the place when a stage has ended.

        An iteration ends with the first stage before `export` that follows one from `export` on; an earlier
        stage that comes late, and one that is not listed, change nothing.
        """
        if name not in NAMES:
            return self
        stage = NAMES.index(name)
        if stage < _ITERATION_ENDS <= self.stage:
            return Place(self.iteration + 1, stage)
        return Place(self.iteration, max(self.stage, stage))
