"""The options of `lathe profile`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from lathe.artefact.command_options import Argument, Option, words
from lathe.artefact.errors import UserError
from lathe.compressor.latency.effort import SECONDS, check_seconds
from lathe.compressor.latency.workload import Workload, requested_workload


def _numbers(option: str) -> Callable[[str], tuple[int, ...]]:
    """Returns a parser for whole numbers with commas; it names the option in its error."""

    def parse(text: str) -> tuple[int, ...]:
        try:
            return tuple(int(part) for part in words(text))
        except ValueError:
            raise UserError(f"{option} {text} is not a list of whole numbers", "Write it like 1,8.") from None

    return parse


@dataclass(frozen=True, kw_only=True)
class ProfileOptions:
    """The options of `lathe profile`: the grid of workloads, and the file of its tables.

    With `hardware`, latencies are estimated for that device and nothing is measured.
    """

    model: Annotated[
        str, Argument(help="A checkpoint directory (config.json is enough), a GGUF file, or a hub name.")
    ]
    out: Annotated[Path, Option(flags=("--output", "-o"), help="The JSON file to write.")]
    backend: Annotated[str, Option(help="The engine to measure on.")] = "onnx"
    metrics: Annotated[
        tuple[str, ...],
        Option(
            flags=("--latency-metric",),
            help="tpot, ttft or e2e; several are separated by commas.",
            parser=words,
        ),
    ] = (Workload().metric,)
    batch_sizes: Annotated[
        tuple[int, ...],
        Option(
            flags=("--batch-size",),
            help="Sequences decoded together; several are separated by commas.",
            parser=_numbers("--batch-size"),
        ),
    ] = (Workload().batch_size,)
    contexts: Annotated[
        tuple[int, ...] | None,
        Option(
            flags=("--context",),
            help="Tokens in the cache or prompt. `compress` interpolates between several.",
            unset=f"{Workload().context}, or as many as fit",
            parser=_numbers("--context"),
        ),
    ] = None
    output_tokens: Annotated[
        int | None,
        Option(help="Tokens of an answer (e2e).", unset=f"{Workload().output_tokens}, or as many as fit"),
    ] = None
    threads: Annotated[int | None, Option(help="Threads of the engine.", unset="all cores")] = None
    measure_seconds: Annotated[
        float,
        Option(help="The time to measure each table in. Two loads of each model are timed in any case."),
    ] = SECONDS
    hardware: Annotated[
        str | None,
        Option(help="Estimate from this device's datasheet instead of measuring, such as h200."),
    ] = None
    dtype: Annotated[str, Option(help="The weights' data type, for an estimate.")] = "bfloat16"
    overwrite: Annotated[bool, Option(help="Replace the file.")] = False

    def __post_init__(self) -> None:
        check_seconds(self.measure_seconds)

    def workloads(self) -> list[tuple[Workload, frozenset[str]]]:
        """Returns every workload, each with its fields that nobody asked for."""
        contexts = [None] if self.contexts is None else self.contexts
        grid = itertools.product(self.metrics, self.batch_sizes, contexts)
        found = [requested_workload(m, b, c, self.output_tokens) for m, b, c in grid]
        if not found:
            raise UserError("there is nothing to time", "Give a metric, a batch size and a context.")
        return found
