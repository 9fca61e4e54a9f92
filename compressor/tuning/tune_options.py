"""The options of `lathe tune`, checked before anything is read."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from lathe.artefact.command_options import Option
from lathe.artefact.errors import UserError
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.run_fields import RunFields
from lathe.compressor.pipeline.shared_options import output_named

TUNING = "Tuning"
DEFAULT_TRIALS = 30
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_seconds(text: str) -> float:
    """Returns the seconds of a time such as `90s`, `30m` or `2h`.

    Raises:
        UserError: it is none.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([smh])\s*", text)
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not seconds > 0:
        raise UserError(f"`{text}` is not a time", "Write it like 30m, 90s or 2h.")
    return seconds


@dataclass(frozen=True, kw_only=True)
class TuneOptions(RunFields):
    """The options of `lathe tune`: those of the runs that are tuned, and how they are."""

    out: Annotated[
        Path,
        Option(
            flags=("--output", "-o"),
            help="The study's directory: the trials, the plot, and what they share.",
            unset="MODEL-tuning",
            follows=output_named("tuning"),
        ),
    ]
    trials: Annotated[
        int | None,
        Option(
            help="Trials in all, those of earlier runs of the command included.",
            unset=f"{DEFAULT_TRIALS}, or as many as --time-budget allows",
            panel=TUNING,
        ),
    ] = None
    time_budget: Annotated[
        float | None,
        Option(
            help="Such as 30m: no trial starts once trials have taken so long.",
            parser=parse_seconds,
            unit="s",
            panel=TUNING,
        ),
    ] = None
    sampler: Annotated[
        str,
        Option(help="tpe (Optuna), nomad (PyNomad's mesh adaptive direct search) or random.", panel=TUNING),
    ] = "tpe"
    tune: Annotated[
        tuple[str, ...],
        Option(
            flags=("--tune",),
            help="A knob and its values, such as damping=0.001..0.1 or method=quick,fast; give it again for "
            "more. Only knobs that are named are tuned.",
            metavar="NAME=VALUES",
            panel=TUNING,
        ),
    ] = ()
    space: Annotated[
        Path | None,
        Option(help="A YAML or JSON file of knobs, a `name: values` on each line.", panel=TUNING),
    ] = None
    halving: Annotated[
        bool,
        Option(
            help="Run each trial on a quarter of its tokens first, and only the better half to the end.",
            panel=TUNING,
        ),
    ] = True
    confirm: Annotated[
        int,
        Option(
            help="Other seeds that the default and the best are run with in the end, to tell a gain from "
            "noise.",
            panel=TUNING,
        ),
    ] = 2
    save: Annotated[
        Path | None,
        Option(help="Write the best options here, as YAML or JSON, for `compress --config`.", panel=TUNING),
    ] = None

    def __post_init__(self) -> None:
        if self.trials is not None and self.trials < 1:
            raise UserError(f"--trials {self.trials} is too few", "Give at least 1.")
        if self.confirm < 0:
            raise UserError(f"--confirm {self.confirm} is not a number of seeds")
        if self.save is not None and self.save.suffix not in (".yaml", ".yml", ".json"):
            raise UserError(f"--save {self.save} is neither YAML nor JSON", "Name it *.yaml or *.json.")
        self.compression()

    @property
    def most_trials(self) -> int | None:
        """The trials in all; None where time alone ends them."""
        return DEFAULT_TRIALS if self.trials is None and self.time_budget is None else self.trials

    def compression(self) -> CompressOptions:
        """Returns the run that is tuned, with the options as they were given.

        Raises:
            UserError: they do not go together.
        """
        self.refuse_several("lathe tune")
        shared = {field.name: getattr(self, field.name) for field in fields(RunFields)}
        return CompressOptions(**shared, out=self.out / "work")
