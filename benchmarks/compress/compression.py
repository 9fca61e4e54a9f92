"""One `lathe compress` of a benchmark: its command, and what came of it."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.compress.staged_process import Segment, StagedProcess
from benchmarks.compress.stages import stage_name
from benchmarks.compress.summary import by_stage, whole
from benchmarks.source_tree import SourceTree

_LATENCY = (
    "metric",
    "context",
    "batch_size",
    "target_ms",
    "predicted_ms",
    "dense_ms",
    "measured_ms",
    "speedup",
)
_ROUNDS_BY_DEFAULT = "compressor/pipeline/default_bits.py"


@dataclass(frozen=True)
class Task:
    """What is asked of every tree: widths alone, by options of `lathe compress` that all commits understand.

    Attributes:
        target: The option of the target and its value.
    """

    model: Path
    target: tuple[str, str]
    text: str
    tokens: int
    evaluation: Path

    def arguments(self, out: Path) -> list[str]:
        return [
            "compress",
            str(self.model),
            *self.target,
            "--calibration",
            self.text,
            "--calibration-tokens",
            str(self.tokens),
            "--evaluation",
            str(self.evaluation),
            "-o",
            str(out),
        ]


def _widths_alone(tree: SourceTree) -> tuple[str, ...]:
    """Returns what keeps weights float32 in a tree that rounds them by default; earlier ones may lack it."""
    return ("--bits", "16") if (tree.path / _ROUNDS_BY_DEFAULT).is_file() else ()


class Compression:
    """A run of a tree in a new folder, which holds its caches, its log and its artefact."""

    def __init__(self, tree: SourceTree, task: Task, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._tree, self.artefact = tree, folder / "artefact"
        arguments = [*task.arguments(self.artefact), *_widths_alone(tree)]
        self._command = tree.command(*arguments)
        environment = tree.environment(folder / "cache")
        self.process = StagedProcess(tree.module, arguments, tree.path, environment, folder / "stdout.log")

    def document(self, segments: Sequence[Segment]) -> dict[str, Any]:
        """Returns what it used, by stage and as a whole, and what the artefact is."""
        result = self._result()
        return {
            "commit": self._tree.commit,
            "command": shlex.join(["python", *self._command[1:]]),
            "exit_status": self.process.exit_status,
            "peaks_by_stage": self.process.peaks_reset,
            "segments": [segment.to_json() for segment in segments],
            "stages": by_stage(segments),
            "whole": whole(segments),
            "result": result,
            "failed": None if result else self._failure(),
        }

    def _failure(self) -> str:
        """Returns why there is no artefact, in its last words."""
        if self.process.killed:
            return "was ended before it was done"
        words = [line.strip() for line in self.process.last_lines if line.strip()]
        return f"exit status {self.process.exit_status}, no artefact: {' / '.join(words[-3:])}"

    def _result(self) -> dict[str, Any] | None:
        """Returns figures of its own report; None where it wrote no artefact."""
        file = self.artefact / "report.json"
        if not file.is_file():
            return None
        report = json.loads(file.read_text())
        latency = report["latency"]
        return {
            "loss": report["loss"],
            "loss_increase": report["loss"]["subnet"] - report["loss"]["dense"],
            "perplexity": report["perplexity"],
            "latency": {name: latency[name] for name in _LATENCY},
            "latency_iterations": len(latency["rounds"]),
            "met": report["met"],
            "decoder_parameters_kept": report["decoder_parameters_kept"],
        }


def tell(name: str, segment: Segment) -> None:
    """Prints one line of progress."""
    print(
        f"{time.strftime('%H:%M:%S')} {name}: {stage_name(segment.title)}: {segment.wall_seconds:.1f} s, CPU "
        f"{segment.cpu_seconds:.1f} s, peak memory {segment.peak_bytes / 2**20:.0f} MiB",
        file=sys.stderr,
        flush=True,
    )
