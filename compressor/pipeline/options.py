"""The options of `compress` and `plan`: declared once, and checked before anything is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from lathe.artefact.command_options import Argument, Option, words
from lathe.artefact.errors import UserError
from lathe.artefact.onnx.graph_format import FOLDER
from lathe.compressor.latency.workload import (
    USUAL,
    Workload,
    asked_for,
    fitted,
    parse_bytes,
    parse_factor,
    parse_milliseconds,
    parse_rate,
    parse_share,
)

if TYPE_CHECKING:  # the command line is built where there is no PyTorch, too
    import torch

    from lathe.compressor.compute.workers.ray_config import RayConfig

T = TypeVar("T")

WINDOW = 512
"""Tokens of a calibration or evaluation window, where the model has that many positions."""

TARGETS, WORKLOAD, TEXT, RUN = "Targets", "Workload that latency is measured on", "Text", "Run"


def _unless_empty(parser: Callable[[str], T]) -> Callable[[str], T | None]:
    """Returns a parser for which an empty text stands for no target."""
    return lambda text: parser(text) if text else None


@dataclass(frozen=True, kw_only=True)
class SharedOptions:
    """The options that `compress` and `plan` have in common. All targets that are given have to hold."""

    model: Annotated[str, Argument(help="A Hugging Face checkpoint directory, or a hub name.")]
    target_latency_ms: Annotated[
        float | None,
        Option(
            flags=("--target-latency",),
            help="Such as 30ms: what the finished artefact must take.",
            parser=_unless_empty(parse_milliseconds),
            unit="ms",
            panel=TARGETS,
        ),
    ] = None
    target_speedup: Annotated[
        float | None,
        Option(
            help="Such as 1.5x, over the dense model on this machine.",
            parser=_unless_empty(parse_factor),
            unit="x",
            panel=TARGETS,
        ),
    ] = None
    target_memory: Annotated[
        int | None,
        Option(
            help="Such as 6GiB: weights plus KV cache, as served, at the batch size and context.",
            parser=_unless_empty(parse_bytes),
            unit="B",
            panel=TARGETS,
        ),
    ] = None
    keep: Annotated[
        float | None,
        Option(
            help="Such as 80%: the share of the decoder's parameters that is kept.",
            parser=_unless_empty(parse_share),
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
        Option(flags=("--backend",), help="The engine to measure on: onnx, vllm or torch.", panel=WORKLOAD),
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
    destinations: Annotated[
        tuple[str, ...],
        Option(
            flags=("--for",),
            help="Where else it will be served, such as vllm or vllm-w4a16: search only plans for that.",
            parser=words,
            panel=RUN,
        ),
    ] = ()
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
    def workload(self) -> Workload:
        """The workload as asked for, with defaults that may not fit the model."""
        return self._asked[0]

    @property
    def usual(self) -> frozenset[str]:
        """Fields of the workload that nobody asked for, which may be reduced to the model's positions."""
        return self._asked[1]

    @property
    def _asked(self) -> tuple[Workload, frozenset[str]]:
        return asked_for(self.latency_metric, self.batch_size, self.context, self.output_tokens)


@dataclass(frozen=True, kw_only=True)
class Options(SharedOptions):
    """One compression, as the options of `compress` describe it.

    A field has its option's name, with underscores, but for five: `target_latency_ms` is --target-latency,
    `perplexity_increase` --max-perplexity-increase, `engine` --backend, `destinations` --for, and `out`
    --output. `rounds`, the iterations of search and measurement at most, has no option.
    """

    out: Annotated[
        Path,
        Option(
            flags=("--output", "-o"),
            help="The artefact directory.",
            unset="MODEL-lathe",
            follows=lambda given: Path(f"{_name_of(given['model'])}-lathe"),
            recorded=False,
        ),
    ]
    target_throughput: Annotated[
        float | None,
        Option(
            help="Such as 2000tok/s, of --batch-size sequences decoded together.",
            parser=parse_rate,
            unit="tok/s",
            panel=TARGETS,
        ),
    ] = None
    perplexity_increase: Annotated[
        float | None,
        Option(
            flags=("--max-perplexity-increase",),
            help="Such as 5%: the fastest model within it, on the evaluation text.",
            parser=_unless_empty(parse_share),
            panel=TARGETS,
        ),
    ] = None
    plan: Annotated[
        Path | None,
        Option(help="A file with the widths to make, such as a plan.json of a --front.", panel=TARGETS),
    ] = None
    front: Annotated[
        bool,
        Option(
            flags=("--front",),
            help="Write plans for every latency, with a plot, and stop.",
            panel=TARGETS,
            recorded=False,
        ),
    ] = False
    export: Annotated[
        tuple[str, ...],
        Option(
            help="What is written: checkpoint, and onnx or vllm, whichever is served and measured.",
            parser=words,
            panel=RUN,
        ),
    ] = ("checkpoint", "onnx")
    quantize: Annotated[
        str | None,
        Option(help="int8 or int4: weights of the ONNX graph that is measured and served.", panel=RUN),
    ] = None
    evaluation: Annotated[
        str | None,
        Option(
            help="Text for the reported perplexities: 64 windows spread over it.",
            unset="held-out calibration text",
            panel=TEXT,
        ),
    ] = None
    method: Annotated[
        str,
        Option(
            help="`lathe`; `quick`, without its slowest parts; or `paper` (arXiv 2409.17372) for comparison.",
            panel=RUN,
        ),
    ] = "lathe"
    evaluations: Annotated[
        int | None,
        Option(
            help="The number of whole plans that the search evaluates; `lathe` then adds an evolutionary "
            "search.",
            unset="the method's own",
            panel=RUN,
        ),
    ] = None
    tolerance: Annotated[
        float,
        Option(
            help="How far above the latency target the artefact may be measured, as a share of it.",
            panel=RUN,
        ),
    ] = 0.02
    rounds: int = 4
    force: Annotated[
        bool, Option(help="Compress although the dense model already meets the target.", panel=RUN)
    ] = False
    overwrite: Annotated[
        bool,
        Option(help="Replace OUT when the new artefact is complete.", panel=RUN, recorded=False),
    ] = False
    remeasure: Annotated[
        bool,
        Option(
            help="Measure the latency table again instead of using the cached one.",
            panel=RUN,
            recorded=False,
        ),
    ] = False
    memory_limit: Annotated[
        int | None,
        Option(
            help="Such as 8GiB: the most resident memory; what does not fit is kept on disk.",
            parser=_unless_empty(parse_bytes),
            unit="B",
            panel=RUN,
            recorded=False,
        ),
    ] = None
    ray: Annotated[
        str | None,
        Option(
            help="Distribute the work: local:2 (two workers on this machine), HOST:PORT of a Ray cluster, or "
            "auto.",
            panel=RUN,
            recorded=False,
        ),
    ] = None
    worker_threads: Annotated[
        int | None,
        Option(help="Threads of each worker.", unset="all cores, divided", panel=RUN, recorded=False),
    ] = None
    device: Annotated[
        str,
        Option(
            help="Where search and reconstruction compute: cpu, cuda or cuda:1. Latency is measured on "
            "--backend.",
            panel=RUN,
        ),
    ] = "cpu"

    def __post_init__(self) -> None:
        self._check_targets()
        self._check_open_targets()
        self._check_exports()
        self._check_numbers()
        self._check_place()

    def _check_targets(self) -> None:
        _ = self.workload
        if self.target_throughput is not None and (
            self.target_latency_ms is not None or self.latency_metric != "tpot"
        ):
            raise UserError("--target-throughput is a target of tpot", "Leave the other latency options out.")
        targets = [self.latency_limit_ms, self.target_speedup, self.target_memory, self.keep]
        given = [target for target in targets if target is not None]
        if not given and not self.plan and not self.front and self.perplexity_increase is None:
            raise UserError(
                "no target is given",
                "Give --target-latency, --target-speedup, --target-memory, --keep or --plan.",
            )
        if self.plan and (given or self.front or self.perplexity_increase):
            raise UserError("--plan says all widths, so no target goes with it", "Give one of the two.")

    def _check_open_targets(self) -> None:
        if self.open_ended and (self.latency_limit_ms or self.target_speedup):
            name = "--front" if self.front else "--max-perplexity-increase"
            raise UserError(f"{name} leaves the latency open", "Leave the latency target out.")
        if self.front and self.perplexity_increase is not None:
            raise UserError("--front is for every quality", "Leave --max-perplexity-increase out.")
        if self.latency_limit_ms is not None and self.target_speedup is not None:
            raise UserError("--target-latency and --target-speedup exclude each other", "Give one of them.")

    def _check_exports(self) -> None:
        from lathe.compressor.latency.backend import backends

        if "checkpoint" not in self.exports:
            raise UserError("an artefact has a checkpoint in any case", "Add checkpoint to --export.")
        if len(self._graphs) > 1:
            raise UserError(
                f"an artefact holds one ONNX graph, not {' and '.join(self._graphs)}",
                "Export one of them, and make the other with `lathe export`.",
            )
        if (self.timed or self.front) and not self.runs:
            export, what = backends.get(self.backend).export, "--front" if self.front else "a latency target"
            raise UserError(f"{what} on {self.backend} needs that export", f"Add {export} to --export.")
        if self.profile and not self.timed:
            raise UserError("--profile is for a latency target", "Give --target-latency or --target-speedup.")

    def _check_numbers(self) -> None:
        from lathe.compressor.calibration.amount import LEAST

        if self.threads is not None and self.threads < 1:
            raise UserError(f"--threads {self.threads} is not a number of threads")
        if self.tensor_parallel < 1:
            raise UserError(
                f"--tensor-parallel {self.tensor_parallel} is not a number of devices", "Give at least 1."
            )
        if self.calibration_tokens < LEAST:
            raise UserError(
                f"--calibration-tokens {self.calibration_tokens} is too few", f"Give at least {LEAST}."
            )
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed {self.seed} is not a seed", "Give a whole number from 0.")
        if not 0 <= self.tolerance <= 1:
            raise UserError(f"--tolerance {self.tolerance} is not a share from 0 to 1")
        if self.evaluations is not None and self.evaluations < 1:
            raise UserError(f"--evaluations {self.evaluations} is too few", "Give at least 1.")

    def _check_place(self) -> None:
        from lathe.compressor.compute.device import CPU

        if self.worker_threads is not None and self.ray is None:
            raise UserError("--worker-threads is for workers", "Give --ray, or leave it out.")
        if self.where != CPU and self.ray is not None:
            raise UserError("--device is for a run of one process", "Leave it or --ray out.")
        if self.place and self.memory_limit:
            raise UserError("--memory-limit is for a run of one process", "Leave it or --ray out.")

    @property
    def latency_limit_ms(self) -> float | None:
        """The latency target; a throughput is one of tpot, whose every step gives each sequence a token."""
        if self.target_throughput is not None:
            return 1e3 * self.batch_size / self.target_throughput
        return self.target_latency_ms

    @property
    def backend(self) -> str:
        """The backend that is timed, by its name with the quantization."""
        return _quantized(self.engine, self.quantize)

    @property
    def exports(self) -> tuple[str, ...]:
        """The exporters, by their names with the quantization."""
        return tuple(_quantized(name, self.quantize) for name in self.export)

    def workload_on(self, positions: int) -> Workload:
        """Returns the workload on a model with so many positions.

        Raises:
            UserError: what was asked for does not fit; for a run that times and counts nothing it always
                does.
        """
        asked = self.runs or self.target_memory is not None
        return fitted(self.workload, positions, self.usual if asked else USUAL)

    @property
    def place(self) -> RayConfig | None:
        """The workers that the work is distributed to."""
        from lathe.compressor.compute.workers.ray_config import parse_place

        return parse_place(self.ray, self.worker_threads) if self.ray is not None else None

    @property
    def where(self) -> torch.device:
        """The device that layers run and matrices are solved on."""
        from lathe.compressor.compute.device import parse_device

        return parse_device(self.device)

    @property
    def timed(self) -> bool:
        """Whether milliseconds are needed to choose a plan."""
        latency = self.latency_limit_ms is not None or self.target_speedup is not None
        return latency or (self.open_ended and self.runs)

    @property
    def graph(self) -> str | None:
        """The one of `exports` that is an ONNX graph."""
        return next(iter(self._graphs), None)

    @property
    def _graphs(self) -> list[str]:
        from lathe.compressor.export import exporters

        return [name for name in self.exports if exporters.get(name).folder == FOLDER]

    @property
    def runs(self) -> bool:
        """Whether what is written is what the backend runs."""
        from lathe.compressor.latency.backend import backends

        return backends.get(self.backend).export in self.exports

    @property
    def served(self) -> str:
        """The one of `exports` that is measured, else the last besides the checkpoint, else the backend's."""
        from lathe.compressor.latency.backend import backends

        others = [name for name in self.exports if name != "checkpoint"]
        return backends.get(self.backend).export if self.runs or not others else others[-1]

    @property
    def open_ended(self) -> bool:
        """Whether latency is what is looked for, not a limit."""
        return self.front or self.perplexity_increase is not None


@dataclass(frozen=True, kw_only=True)
class PlanOptions(SharedOptions):
    """What `lathe plan` is asked for."""

    latency: Annotated[bool, Option(help="Measure the dense model and the smallest subnet.")] = True

    def compression(self) -> Options:
        """Returns the compression that is planned: without a target, one for every latency there is."""
        from lathe.compressor.latency.backend import backends

        targeted = bool(self.target_latency_ms or self.target_speedup)
        timed = self.latency or targeted
        shared = {field.name: getattr(self, field.name) for field in fields(SharedOptions)}
        return Options(
            **shared
            | {
                "out": Path("plan"),
                "keep": self.keep if self.keep or timed else 1.0,
                "front": timed and not targeted,
                "export": tuple(
                    dict.fromkeys(["checkpoint", *([backends.get(self.engine).export] if timed else [])])
                ),
            }
        )


def _quantized(name: str, scheme: str | None) -> str:
    """Returns the exporter, or backend, of quantized weights that goes with one; a checkpoint has none."""
    return name if scheme is None or name == "checkpoint" else f"{name}-{scheme}"


def _name_of(model: str) -> str:
    return Path(model).name or Path(model).resolve().name
