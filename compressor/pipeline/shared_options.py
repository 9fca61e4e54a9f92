"""The options that `compress` and `plan` have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from lathe.artefact.byte_size import parse_bytes
from lathe.artefact.command_options import Argument, Option, words
from lathe.artefact.errors import UserError
from lathe.compressor.latency.workload import (
    Workload,
    parse_factor,
    parse_milliseconds,
    parse_share,
    requested_workload,
)

T = TypeVar("T")

TARGETS, WORKLOAD, TEXT, RUN = "Targets", "Workload that latency is measured on", "Text", "Run"


def unless_empty(parser: Callable[[str], T]) -> Callable[[str], T | None]:
    """Returns a parser for which an empty text stands for no target."""
    return lambda text: parser(text) if text else None


def one_or_more(parser: Callable[[str], float]) -> Callable[[str], float | tuple[float, ...] | None]:
    """Returns a parser of one target, or of several with commas; an empty text stands for none."""

    def parse(text: str) -> float | tuple[float, ...] | None:
        found = tuple(map(parser, words(text)))
        return found if len(found) > 1 else next(iter(found), None)

    return parse


def output_named(suffix: str) -> Callable[[Mapping[str, Any]], Path]:
    """Returns what names a directory where none is given: in the working directory, by the model's name."""

    def output_of(given: Mapping[str, Any]) -> Path:
        model = given["model"]
        name = Path(model).name or Path(model).resolve().name
        return Path(f"{name.removesuffix('.gguf')}-{suffix}")

    return output_of


@dataclass(frozen=True, kw_only=True)
class SharedOptions:
    """The options that `compress` and `plan` have in common.

    The result has to meet every target that is given.
    """

    model: Annotated[str, Argument(help="A Hugging Face checkpoint directory, a GGUF file, or a hub name.")]
    target_latency_ms: Annotated[
        float | tuple[float, ...] | None,
        Option(
            flags=("--target-latency",),
            help="Such as 30ms: what the finished artefact must take. Several of `compress`, such as "
            "30ms,20ms: a family of nested subnets.",
            parser=one_or_more(parse_milliseconds),
            unit="ms",
            panel=TARGETS,
        ),
    ] = None
    target_speedup: Annotated[
        float | tuple[float, ...] | None,
        Option(
            help="Such as 1.5x, over the dense model on this machine. Several of `compress`, such as "
            "1.2x,1.5x,2x: a family of nested subnets.",
            parser=one_or_more(parse_factor),
            unit="x",
            panel=TARGETS,
        ),
    ] = None
    target_memory: Annotated[
        int | None,
        Option(
            help="Such as 6GiB: weights plus KV cache, as served, at the batch size and context.",
            parser=unless_empty(parse_bytes),
            unit="B",
            panel=TARGETS,
        ),
    ] = None
    keep: Annotated[
        float | None,
        Option(
            help="Such as 80%: the share of the decoder's parameters that is kept.",
            parser=unless_empty(parse_share),
            panel=TARGETS,
        ),
    ] = None
    latency_metric: Annotated[str, Option(help="tpot, ttft or e2e.", panel=WORKLOAD)] = "tpot"
    batch_size: Annotated[int, Option(help="Sequences decoded together.", panel=WORKLOAD)] = 1
    context: Annotated[
        int | None,
        Option(
            help="Tokens in the cache (tpot) or in the prompt (ttft, e2e).",
            unset=f"{Workload().context}, or as many as fit",
            panel=WORKLOAD,
        ),
    ] = None
    output_tokens: Annotated[
        int | None,
        Option(
            help="Tokens of an answer (e2e).",
            unset=f"{Workload().output_tokens}, or as many as fit",
            panel=WORKLOAD,
        ),
    ] = None
    engine: Annotated[
        str,
        Option(
            flags=("--backend",),
            help="The engine to measure on: onnx, llamacpp, vllm or torch.",
            panel=WORKLOAD,
        ),
    ] = "onnx"
    threads: Annotated[
        int | None, Option(help="Threads of the engine.", unset="all cores", panel=WORKLOAD)
    ] = None
    profile: Annotated[
        Path | None,
        Option(
            help="Search with the latencies in this file (`lathe profile`), for example those of another "
            "machine.",
            panel=WORKLOAD,
        ),
    ] = None
    calibration: Annotated[
        str,
        Option(
            help="Files or folders (separated by commas: equal shares), a data set, or `self`: text that the "
            "model writes.",
            panel=TEXT,
        ),
    ] = "self"
    calibration_tokens: Annotated[
        int, Option(help="The number of calibration tokens to use.", panel=TEXT)
    ] = 65_536
    vocabulary: Annotated[
        str | None,
        Option(
            help="Cut the vocabulary to what this text (files or folders) uses, and rewrite the tokenizer.",
            panel=TEXT,
        ),
    ] = None
    destinations: Annotated[
        tuple[str, ...],
        Option(
            flags=("--for",),
            help="Where else it will be served, such as vllm or vllm-w4a16: search only plans for that.",
            parser=words,
            panel=RUN,
        ),
    ] = ()
    bits: Annotated[
        str | None,
        Option(
            help="`auto`: search for the bits of each block's weights in the ONNX graph (float32, 8 or 4) or "
            "GGUF file together with its width. 16: widths alone. 8 or 4: the same for all, as --quantize "
            "int8 or int4.",
            unset="auto for a target of latency or memory alone, 8 for a family of subnets, where the graph "
            "or file has them; else 16",
            panel=RUN,
        ),
    ] = None
    tensor_parallel: Annotated[
        int,
        Option(
            help="The number of devices that share every layer: search only widths that they can share.",
            panel=RUN,
        ),
    ] = 1
    seed: Annotated[
        int, Option(help="Same seed, same text, same latency table: same artefact.", panel=RUN)
    ] = 0

    @property
    def several_targets(self) -> bool:
        """True if several targets of latency are given, each of which is a subnet's of one family."""
        return isinstance(self.target_latency_ms, tuple) or isinstance(self.target_speedup, tuple)

    def refuse_several(self, command: str) -> None:
        """Refuses several targets for a command that makes one subnet.

        Raises:
            UserError: there are several.
        """
        if self.several_targets:
            raise UserError(
                f"{command} takes one target of latency", "Several make a family with `compress`."
            )

    @property
    def workload(self) -> Workload:
        """The workload that was given, with defaults that may not fit the model."""
        return self._requested[0]

    @property
    def defaulted(self) -> frozenset[str]:
        """The fields of the workload that were not given, which may be reduced to the model's positions."""
        return self._requested[1]

    @property
    def _requested(self) -> tuple[Workload, frozenset[str]]:
        return requested_workload(self.latency_metric, self.batch_size, self.context, self.output_tokens)
