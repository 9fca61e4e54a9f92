"""What a run is asked for, checked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from lathe.artefact.errors import UserError
from lathe.artefact.onnx.graph_format import FOLDER
from lathe.compressor.calibration.amount import LEAST
from lathe.compressor.compute.device import CPU, parse_device
from lathe.compressor.compute.workers.ray_config import RayConfig, parse_place
from lathe.compressor.export import exporters
from lathe.compressor.latency.backend import backends
from lathe.compressor.latency.workload import USUAL, Workload, fitted

WINDOW = 512
"""Tokens of a calibration or evaluation window, where the model has that many positions."""

_USUAL = Workload()


@dataclass(frozen=True)
class Options:
    """One compression. Targets are in milliseconds, a factor, bytes and a share of decoder parameters;
    those given all have to hold. perplexity_increase: a share over dense that is not passed, as fast as that
    allows. plan: a file with the widths to make instead. front: plans for every latency, nothing made.
    destinations: where it is to be served besides what is exported, by name. tensor_parallel: the number of
    devices that are to share every layer. usual: fields of the workload that nobody asked for, which may be
    cut to the model's positions. memory_limit: bytes that are to be resident at most. ray: where
    workers are, worker_threads: of each (`workers/place.py`). device: where layers are run (`device.py`).
    """

    model: str
    out: Path
    target_latency_ms: float | None = None
    target_speedup: float | None = None
    target_memory: int | None = None
    keep: float | None = None
    perplexity_increase: float | None = None
    plan: Path | None = None
    front: bool = False
    workload: Workload = _USUAL
    usual: frozenset[str] = frozenset()
    backend: str = "onnx"
    exports: tuple[str, ...] = ("checkpoint", "onnx")
    destinations: tuple[str, ...] = ()
    tensor_parallel: int = 1
    method: str = "lathe"
    threads: int | None = None
    profile: Path | None = None
    calibration: str = "self"
    calibration_tokens: int = 65_536
    evaluation: str | None = None
    evaluations: int | None = None
    tolerance: float = 0.02
    rounds: int = 4
    seed: int = 0
    force: bool = False
    overwrite: bool = False
    remeasure: bool = False
    memory_limit: int | None = None
    ray: str | None = None
    worker_threads: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        targets = [self.target_latency_ms, self.target_speedup, self.target_memory, self.keep]
        given = [target for target in targets if target is not None]
        if not given and not self.plan and not self.front and self.perplexity_increase is None:
            raise UserError(
                "no target is given",
                "Give --target-latency, --target-speedup, --target-memory, --keep or --plan.",
            )
        if self.plan and (given or self.front or self.perplexity_increase):
            raise UserError("--plan says all widths, so no target goes with it", "Give one of the two.")
        if self.open_ended and (self.target_latency_ms or self.target_speedup):
            name = "--front" if self.front else "--max-perplexity-increase"
            raise UserError(f"{name} leaves the latency open", "Leave the latency target out.")
        if self.front and self.perplexity_increase is not None:
            raise UserError("--front is for every quality", "Leave --max-perplexity-increase out.")
        if self.target_latency_ms is not None and self.target_speedup is not None:
            raise UserError("--target-latency and --target-speedup exclude each other", "Give one of them.")
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
        if self.worker_threads is not None and self.ray is None:
            raise UserError("--worker-threads is for workers", "Give --ray, or leave it out.")
        if self.where != CPU and self.ray is not None:
            raise UserError("--device is for a run of one process", "Leave it or --ray out.")
        if self.place and self.memory_limit:
            raise UserError("--memory-limit is for a run of one process", "Leave it or --ray out.")
        if self.evaluations is not None and self.evaluations < 1:
            raise UserError(f"--evaluations {self.evaluations} is too few", "Give at least 1.")

    def workload_on(self, positions: int) -> Workload:
        """The workload on a model with so many positions.

        Raises:
            UserError: what was asked for does not fit; of a run that times and counts nothing, nobody asked.
        """
        asked = self.runs or self.target_memory is not None
        usual = self.usual if asked and self.workload is not _USUAL else USUAL
        return fitted(self.workload, positions, usual)

    @property
    def place(self) -> RayConfig | None:
        """Where work is spread to."""
        return parse_place(self.ray, self.worker_threads) if self.ray is not None else None

    @property
    def where(self) -> torch.device:
        """Layers are run and matrices solved."""
        return parse_device(self.device)

    @property
    def timed(self) -> bool:
        """Whether milliseconds are needed to choose a plan."""
        latency = self.target_latency_ms is not None or self.target_speedup is not None
        return latency or (self.open_ended and self.runs)

    @property
    def graph(self) -> str | None:
        """The one of `exports` that is an ONNX graph."""
        return next(iter(self._graphs), None)

    @property
    def _graphs(self) -> list[str]:
        return [name for name in self.exports if exporters.get(name).folder == FOLDER]

    @property
    def runs(self) -> bool:
        """Whether what is written is what the backend runs."""
        return backends.get(self.backend).export in self.exports

    @property
    def served(self) -> str:
        """The one of `exports` that is measured, else the last besides the checkpoint, else the backend's."""
        others = [name for name in self.exports if name != "checkpoint"]
        return backends.get(self.backend).export if self.runs or not others else others[-1]

    @property
    def open_ended(self) -> bool:
        """Whether latency is what is looked for, not a limit."""
        return self.front or self.perplexity_increase is not None
