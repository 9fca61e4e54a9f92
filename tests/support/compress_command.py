"""The compress command on a tiny model: in this process, or in one that kills itself at a chosen point."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from lathe.cli import build
from support.tiny_server import save_checkpoint

DRIVER = """
import os, signal, sys
from support import steady_clock
from lathe.cli import compress
from lathe.compressor.search.trace import Trace
steady_clock.install()
point, number = sys.argv.pop(1).split(":")
passed = 0

def pausing(function):
    def wrapped(*args, **options):
        global passed
        passed += 1
        if passed == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)
    return wrapped

place, name = {"replace": (os, "replace"), "rename": (os, "rename"), "evaluate": (Trace, "record")}[point]
setattr(place, name, pausing(getattr(place, name)))
compress()
"""


@dataclass(frozen=True)
class Tiny:
    """A two-layer Llama with a tokenizer, and text for it; plans are of widths alone unless bits are said.

    `bits` are the options for that; none: what the command does by default.
    """

    model: Path
    text: Path
    bits: tuple[str, ...] = field(default=("--bits", "16"), kw_only=True)

    def arguments(self, out: Path, *options: str) -> list[str]:
        return [
            str(self.model),
            "-o",
            str(out),
            "--context",
            "64",
            "--calibration",
            str(self.text),
            "--calibration-tokens",
            "2048",
            "--evaluations",
            "40",
            *(() if {"--bits", "--quantize"} & {*options} else self.bits),
            *options,
        ]

    def compress(self, out: Path, *options: str) -> Result:
        return lathe("compress", *self.arguments(out, *options))

    def killed(self, out: Path, point: str, *options: str) -> subprocess.CompletedProcess[str]:
        """`point`: as `killed_at` takes it."""
        return killed_at(point, self.arguments(out, *options))


def killed_at(point: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """`point`: "replace:7" kills with SIGKILL at the seventh rename of a finished file."""
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DRIVER, point, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def make_tiny(directory: Path, **changes: Any) -> Tiny:
    """`changes` are of the model's config."""
    model = save_checkpoint(directory / "tiny", **changes)
    text = directory / "text.txt"
    text.write_text("".join(f"The {i}th fox jumps over {i * 7 % 100} lazy dogs. " for i in range(600)))
    return Tiny(model, text)


def lathe(*arguments: str) -> Result:
    return CliRunner().invoke(build(), list(arguments))


def content(directory: Path, names: Sequence[str]) -> dict[str, Any]:
    return {name: (directory / name).read_bytes() for name in names}
