"""The settings of a comparison, and the command line that they come from."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.bits.variants import VARIANTS, Variant, chosen
from benchmarks.source_tree import ROOT
from lathe.artefact.errors import UserError
from lathe.compressor.latency.workload import parse_factor
from lathe.compressor.pipeline.run_directory import key

_NOT_RESULTS = ("variants", "targets", "batch_sizes", "work", "out", "remeasure", "quiet")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One comparison.

    Attributes:
        model: The checkpoint's directory.
        text: The calibration text.
        evaluation: The text that losses are taken on.
        variants: What is compared, in the order to make it in.
        targets: Speed-ups over the dense model in float32.
        batch_sizes: Sequences decoded together; each has artefacts of its own.
        tokens: Of the calibration text.
        windows: Of the evaluation text.
        context: Tokens in the cache; None: `compress`'s default.
        threads: Of the engine; None: its own choice.
        method: `compress --method`.
        evaluations: `compress --evaluations`.
        seed: `compress --seed`.
        measure_seconds: `compress --measure-seconds`; every pair of artefacts is timed for half of it.
        work: Where artefacts and run directories are kept.
        out: The document.
        remeasure: Whether all artefacts are timed again.
        quiet: Whether stages are not told.
    """

    model: str
    text: str
    evaluation: str
    variants: tuple[Variant, ...]
    targets: tuple[float, ...]
    batch_sizes: tuple[int, ...]
    tokens: int
    windows: int
    context: int | None
    threads: int | None
    method: str
    evaluations: int | None
    seed: int
    measure_seconds: float
    work: Path
    out: Path
    remeasure: bool = False
    quiet: bool = False

    @property
    def facts(self) -> dict[str, Any]:
        """What every row of a document has in common."""
        return {name: value for name, value in asdict(self).items() if name not in _NOT_RESULTS}

    @property
    def place(self) -> Path:
        """Where artefacts of these settings are kept."""
        return self.work / f"{Path(self.model).name}-{key(self.facts)}"


def parse(description: str | None, arguments: list[str] | None = None) -> Settings:
    """Returns the settings of a command line.

    Args:
        description: What `--help` says of the command.
        arguments: The command line; None: that of this process.

    Raises:
        UserError: one of them makes no sense.
    """
    given = vars(_parser(description).parse_args(arguments))
    given["variants"] = chosen(given["variants"])
    given["targets"] = tuple(dict.fromkeys(map(parse_factor, given["targets"].split(","))))
    given["batch_sizes"] = tuple(dict.fromkeys(map(_count, given["batch_sizes"].split(","))))
    for option in ("model", "text", "evaluation"):
        given[option] = _resolved(given[option])
    return Settings(**given)


def _count(text: str) -> int:
    if not text.strip().isdecimal() or not int(text):
        raise UserError(f"`{text}` is not a batch size", "Give whole numbers from 1, such as 1,8.")
    return int(text)


def _resolved(value: str) -> str:
    """Returns files and folders by their absolute paths; `self` and hub names as they are."""
    return ",".join(str(Path(part).resolve()) if Path(part).exists() else part for part in value.split(","))


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bits",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, build = parser.add_argument, ROOT / "build" / "bench"
    add("--model", required=True, help="a checkpoint's directory")
    add("--text", required=True, help="to calibrate on: files or folders, or `self`, which the model writes")
    add("--evaluation", required=True, help="to take losses on: a file or a folder")
    add("--variants", default=",".join(VARIANTS), help="with commas [all: %(default)s]")
    add("--targets", default="1.3x,1.5x,2x,2.5x,3x,4x,6x,8x", help="over dense in float32 [%(default)s]")
    add("--batch-sizes", default="1", help="with commas; each has its own artefacts [%(default)s]")
    add("--tokens", type=int, default=32_768, help="of the calibration text [%(default)s]")
    add("--windows", type=int, default=32, help="of the evaluation text [%(default)s]")
    add("--context", type=int, help="tokens in the cache [512, or as many as fit]")
    add("--threads", type=int, help="of the engine [all cores]")
    add("--method", default="auto", help="of compress [%(default)s]")
    add("--evaluations", type=int, help="of compress [the method's own]")
    add("--seed", type=int, default=0, help="[%(default)s]")
    add(
        "--measure-seconds", type=float, default=60.0, help="of compress; a pair has half of it [%(default)s]"
    )
    add("--work", type=Path, default=build / "bits", help="artefacts, kept for a later run [%(default)s]")
    add("--out", type=Path, default=build / "bits.json", help="rows that it has are kept [%(default)s]")
    add("--remeasure", action="store_true", help="time all artefacts again, in one session")
    add("--quiet", action="store_true", help="tell no stages")
    return parser
