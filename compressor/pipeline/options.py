"""The options of `compress`: declared once, and checked before anything is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lathe.artefact.command_options import Option, words
from lathe.artefact.errors import UserError
from lathe.artefact.onnx.graph_format import FOLDER
from lathe.compressor.latency.workload import (
    FITTED_DEFAULTS,
    Workload,
    fitted,
    parse_bytes,
    parse_rate,
    parse_share,
)
from lathe.compressor.pipeline.shared_options import RUN, TARGETS, TEXT, SharedOptions, unless_empty

if TYPE_CHECKING:  # the command line is built where there is no PyTorch, too
    import torch

    from lathe.compressor.compute.workers.ray_config import RayConfig

WINDOW = 512
"""Tokens of a calibration or evaluation window, where the model has that many positions."""


def _output_of(given: Mapping[str, Any]) -> Path:
    """Returns the artefact's directory where none is given: in the working directory, by the model's name."""
    model = given["model"]
    return Path(f"{Path(model).name or Path(model).resolve().name}-lathe")


@dataclass(frozen=True, kw_only=True)
class CompressOptions(SharedOptions):
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
            follows=_output_of,
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
            parser=unless_empty(parse_share),
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
            parser=unless_empty(parse_bytes),
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
        _check(self)

    @property
    def latency_limit_ms(self) -> float | None:
        """The latency target.

        A target throughput is one of tpot, because every step gives each sequence one token.
        """
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
            UserError: The given workload does not fit. A run that times and counts nothing reduces it to
                what fits.
        """
        required = self.runs or self.target_memory is not None
        return fitted(self.workload, positions, self.defaulted if required else FITTED_DEFAULTS)

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
        """True if a plan cannot be chosen without milliseconds."""
        latency = self.latency_limit_ms is not None or self.target_speedup is not None
        return latency or (self.open_ended and self.runs)

    @property
    def graph(self) -> str | None:
        """The one of `exports` that is an ONNX graph, or None."""
        return next(iter(self.graphs), None)

    @property
    def graphs(self) -> list[str]:
        """The ones of `exports` that are ONNX graphs."""
        from lathe.compressor.export import exporters

        return [name for name in self.exports if exporters.get(name).folder == FOLDER]

    @property
    def runs(self) -> bool:
        """True if the backend runs one of the exports."""
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
        """True if the run looks for the latency instead of being given it."""
        return self.front or self.perplexity_increase is not None


def _quantized(name: str, scheme: str | None) -> str:
    """Returns the exporter, or backend, of quantized weights that goes with one; a checkpoint has none."""
    return name if scheme is None or name == "checkpoint" else f"{name}-{scheme}"


def _check(options: CompressOptions) -> None:
    """Checks that the options go together.

    Raises:
        UserError: They do not.
    """
    _check_targets(options)
    _check_open_targets(options)
    _check_exports(options)
    _check_numbers(options)
    _check_place(options)


def _check_targets(options: CompressOptions) -> None:
    _ = options.workload
    if options.target_throughput is not None and (
        options.target_latency_ms is not None or options.latency_metric != "tpot"
    ):
        raise UserError("--target-throughput is a target of tpot", "Leave the other latency options out.")
    targets = [options.latency_limit_ms, options.target_speedup, options.target_memory, options.keep]
    given = [target for target in targets if target is not None]
    if not given and not options.plan and not options.front and options.perplexity_increase is None:
        raise UserError(
            "no target is given",
            "Give --target-latency, --target-speedup, --target-memory, --keep or --plan.",
        )
    if options.plan and (given or options.front or options.perplexity_increase):
        raise UserError("--plan says all widths, so no target goes with it", "Give one of the two.")


def _check_open_targets(options: CompressOptions) -> None:
    if options.open_ended and (options.latency_limit_ms or options.target_speedup):
        name = "--front" if options.front else "--max-perplexity-increase"
        raise UserError(f"{name} leaves the latency open", "Leave the latency target out.")
    if options.front and options.perplexity_increase is not None:
        raise UserError("--front is for every quality", "Leave --max-perplexity-increase out.")
    if options.latency_limit_ms is not None and options.target_speedup is not None:
        raise UserError("--target-latency and --target-speedup exclude each other", "Give one of them.")


def _check_exports(options: CompressOptions) -> None:
    from lathe.compressor.latency.backend import backends

    if "checkpoint" not in options.exports:
        raise UserError("an artefact has a checkpoint in any case", "Add checkpoint to --export.")
    if len(options.graphs) > 1:
        raise UserError(
            f"an artefact holds one ONNX graph, not {' and '.join(options.graphs)}",
            "Export one of them, and make the other with `lathe export`.",
        )
    if (options.timed or options.front) and not options.runs:
        export = backends.get(options.backend).export
        what = "--front" if options.front else "a latency target"
        raise UserError(f"{what} on {options.backend} needs that export", f"Add {export} to --export.")
    if options.profile and not options.timed:
        raise UserError("--profile is for a latency target", "Give --target-latency or --target-speedup.")


def _check_numbers(options: CompressOptions) -> None:
    from lathe.compressor.calibration.amount import LEAST

    if options.threads is not None and options.threads < 1:
        raise UserError(f"--threads {options.threads} is not a number of threads")
    if options.tensor_parallel < 1:
        raise UserError(
            f"--tensor-parallel {options.tensor_parallel} is not a number of devices", "Give at least 1."
        )
    if options.calibration_tokens < LEAST:
        raise UserError(
            f"--calibration-tokens {options.calibration_tokens} is too few", f"Give at least {LEAST}."
        )
    if not 0 <= options.seed < 2**63:
        raise UserError(f"--seed {options.seed} is not a seed", "Give a whole number from 0.")
    if not 0 <= options.tolerance <= 1:
        raise UserError(f"--tolerance {options.tolerance} is not a share from 0 to 1")
    if options.evaluations is not None and options.evaluations < 1:
        raise UserError(f"--evaluations {options.evaluations} is too few", "Give at least 1.")


def _check_place(options: CompressOptions) -> None:
    from lathe.compressor.compute.device import CPU

    if options.worker_threads is not None and options.ray is None:
        raise UserError("--worker-threads is for workers", "Give --ray, or leave it out.")
    if options.where != CPU and options.ray is not None:
        raise UserError("--device is for a run of one process", "Leave it or --ray out.")
    if options.place and options.memory_limit:
        raise UserError("--memory-limit is for a run of one process", "Leave it or --ray out.")
