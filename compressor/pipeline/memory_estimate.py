"""The memory that a run will need, estimated from shapes.

A run goes one of two ways. *In memory*, it holds the model, everything computed from it, and the text's
hidden states. *On disk*, it holds only what one layer needs. Both give the same artefact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psutil
import torch

from lathe.artefact.errors import UserError
from lathe.compressor.calibration.amount import heldout_windows
from lathe.compressor.calibration.selfgen import cache_bytes
from lathe.compressor.calibration.tokens import SELF, window_length
from lathe.compressor.compute.device import CPU, free_bytes
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.lm_head import TOP
from lathe.compressor.pipeline.option_values import WINDOW
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.reconstruction.kl_passes import ROWS
from lathe.compressor.search.method_choice import chosen_method
from lathe.compressor.statistics.collect import BATCH
from lathe.compressor.statistics.router_sample import TOKENS as ROUTED

BASE = 480 * 2**20
"""The bytes of a process that has imported what a run uses; MKL takes more on processors of Intel."""
_RANKING, _SOLVING, _FACTORS, _ROUNDING = 7, 5, 3, 6
"""Matrices [F, F] in float64 that exist at once: for a layer's ranking and dampings, for its reconstruction,
for the preconditioner of a step, and for rounding."""
_GRADIENTS = 2
"""Those that rounding by gradients adds: a layer's, and their factors."""
_ROUNDED_TABLE = 5
"""Embeddings that exist at once when one is rounded, itself among them."""
_MARGIN = 1.3
"""The factor for temporaries and for what allocators hold on to."""
_IN_MEMORY = 2 * 2**30
"""The most that a run of one process takes on the CPU where disk does as well."""
_ENGINE = 2
"""The memory of ONNX Runtime as a multiple of a graph's weights."""


@dataclass(frozen=True)
class MemoryPlan:
    """The memory that a run will need, in bytes.

    Attributes:
        stages: The peak of every stage of a run on disk.
        in_memory: The peak of a run that keeps everything in memory.
        limit: The limit that was given, else what the machine has left.
        device: What is free on the device that computes, where that is not the machine's memory.
        whole: The peak with a whole model in memory, as transformers loads it; None where that may not be.
        most: The most that a run in memory may take of what is free.
    """

    stages: dict[str, int]
    in_memory: int
    limit: int
    device: int | None = None
    whole: int | None = None
    most: int | None = None

    @property
    def on_disk(self) -> bool:
        """True if layers, statistics and hidden states stay on disk."""
        free = min(self.limit, self.device or self.limit)
        return self.in_memory > min(free, self.most or free)

    @property
    def loads_whole(self) -> bool:
        """True if the run checks models as transformers loads them, and not layer by layer."""
        return not self.on_disk or self.whole is not None

    @property
    def peak(self) -> int:
        """The peak of the run, whichever way it goes."""
        return max(*self.stages.values(), self.whole or 0) if self.on_disk else self.in_memory

    def to_json(self) -> dict[str, Any]:
        """Returns the estimate as documents have it."""
        return {
            "limit_bytes": self.limit,
            "peak_bytes": self.peak,
            "on_disk": self.on_disk,
            "in_memory_bytes": self.in_memory,
            "stages_on_disk_bytes": self.stages,
            "device_free_bytes": self.device,
        }


def memory_plan(options: CompressOptions, source: Checkpoint) -> MemoryPlan:
    """Estimates the peaks of a run, and decides which way it will go.

    Raises:
        UserError: it needs more than the given limit, or than the device or the machine has.
    """
    limit = options.memory_limit or psutil.virtual_memory().available
    needs = _Needs(options, source)
    device = None if options.where == CPU else free_bytes(options.where)
    most = None if options.place or device is not None else _IN_MEMORY
    whole = needs.whole() if options.memory_limit is None and needs.whole() <= limit // 2 else None
    plan = MemoryPlan(needs.stages(), needs.in_memory(), limit, device, whole, most)
    if device is not None:
        _check_device(plan, options.where, device)
    if options.memory_limit and plan.peak > limit:
        stage = max(plan.stages, key=plan.stages.__getitem__)
        remedy = f"Give at least {memory_text(plan.peak)}"
        if stage == _MEASURE:
            remedy += ", or leave the graph out: `--export checkpoint` with --keep"
        raise UserError(
            f"a memory limit of {memory_text(limit)} cannot be kept: the stage `{stage}` will need "
            f"{memory_text(plan.peak)}",
            f"{remedy}.",
        )
    if options.place:
        count, each = (options.place.workers or 0) + 1, plan.in_memory
        if count * each > limit:
            raise UserError(
                f"each of {count} processes will need {memory_text(each)}, and {memory_text(limit)} of "
                "memory is free",
                "Ask for fewer workers, or leave --ray out: a run of one process works from disk.",
            )
    return plan


_MEASURE = "measure and verify in ONNX Runtime"


def _check_device(plan: MemoryPlan, where: torch.device, free: int) -> None:
    """Refuses a device with too little memory: every stage but ONNX Runtime's works there."""
    needs = {stage: size - BASE for stage, size in plan.stages.items() if stage != _MEASURE}
    stage = max(needs, key=needs.__getitem__)
    if needs[stage] > free:
        raise UserError(
            f"the stage `{stage}` will need {memory_text(needs[stage])} on {where}, where "
            f"{memory_text(free)} are free",
            "Leave --device out, or free the GPU.",
        )


class _Needs:
    """The bytes that the parts of a run take."""

    def __init__(self, options: CompressOptions, source: Checkpoint) -> None:
        shape = self.shape = source.shape
        self.options, self.layers = options, shape.num_layers
        self.window = window_length(source, WINDOW)
        self.windows = sum(heldout_windows(options.fitted_tokens, self.window))
        self.query = shape.layer.query_heads * shape.head_dim
        self.layer = 4 * shape.decoder_parameters([shape.layer])
        self.head = 4 * shape.vocab_size * shape.hidden_size
        self.square = max(8 * self.query**2, 8 * max(1, shape.experts) * shape.layer.ffn**2)
        self.model = 4 * shape.parameters(shape.dense_plan)

    def stages(self) -> dict[str, int]:
        """Returns the peak of every stage of a run on disk."""
        head = 3 * self.head // 2  # as it is stored, and as float32
        found = {
            "calibrate and rank": self._ranking(),
            "search": head + self._searching() + self._evaluating(),
            "reconstruct": self._reconstruction(BATCH),
            "verify": head + 2 * self.layer + 3 * self._logits(),
        }
        rounds = chosen_method(self.options.method, self.shape, self.options.refinements).whole_rounds
        if rounds:
            evaluating = head + 2 * self.layer + self._logits() + self._evaluating()
            found["reconstruct the whole model"] = max(self._reconstruction(ROWS), evaluating)
        if (self.options.calibration == SELF and not self.options.domain) or rounds > 1:
            cached = cache_bytes(self.shape, self.window)
            found["text that the model writes"] = head + self.layer + cached
        if self.options.quantizes or self.options.pattern:
            found["round"] = self._rounding()
        if self.options.graph or self.options.timed:
            found[_MEASURE] = 2 * _ENGINE * self.model
        return {name: BASE + int(_MARGIN * size) for name, size in found.items()}

    def in_memory(self) -> int:
        """Returns the peak of a run in memory.

        It holds dense, subnet, a step's vectors and factors, hidden states at every layer, and one batch.
        """
        states = 4 * self.windows * self.window * self.shape.hidden_size
        factors = self.layers * self.square * 2
        whole = 8 * self.model + factors + (self.layers + 4) * states + self._logits()
        measure = self.model * (1 + 2 * _ENGINE) if self.options.graph or self.options.timed else 0
        return BASE + max(whole, measure, max(self.stages().values()) + 2 * self.model)

    def whole(self) -> int:
        """Returns the peak with one model in memory as transformers loads it, and logits."""
        return BASE + int(_MARGIN * (self.model + 3 * self._logits()))

    def _ranking(self) -> int:
        return _RANKING * self.square + self._inputs() + self.layer + self._activations(BATCH)

    def _searching(self) -> int:
        """Returns the bytes to prune a block; where bits are searched, those to round one or the tables."""
        pruning = 3 * self.layer + 2 * self.square + self._cross()
        tables = (_ROUNDED_TABLE if self.shape.tied_embeddings else _ROUNDED_TABLE + 1) * self.head
        return max(pruning, self._rounding(), tables) if self.options.block_bits else pruning

    def _reconstruction(self, rows: int) -> int:
        """Returns the bytes to solve for a projection, or those of a step's factors if they are more."""
        solving = _SOLVING * self.square
        factors = _FACTORS * self.square + 2 * self._activations(rows)
        return self._inputs() + 3 * self.layer + max(solving, factors)

    def _rounding(self) -> int:
        """Returns the bytes to round a layer: an output projection is solved and rounded from its moments."""
        square = 8 * max(self.query, 0 if self.shape.experts else self.shape.layer.ffn) ** 2
        by_gradients = chosen_method(self.options.method, self.shape).by_gradients
        return (
            (_ROUNDING + _GRADIENTS * by_gradients) * square
            + 2 * self._cross()
            + self._inputs()
            + 3 * self.layer
            + self._activations(BATCH)
        )

    def _inputs(self) -> int:
        """Returns the bytes of the Gram matrices of a layer's inputs and of what experts are ranked by."""
        routes = 4 * ROUTED * self.shape.experts * (self.shape.experts + 1)
        return 2 * 8 * self.shape.hidden_size**2 + routes

    def _cross(self) -> int:
        """Returns the bytes of the cross-Gram of dense outputs, [F, D] in float64."""
        shape = self.shape
        return 8 * shape.hidden_size * max(self.query, shape.ffn_channels(shape.layer))

    def _activations(self, rows: int) -> int:
        d, inner = self.shape.hidden_size, 3 * self.shape.ffn_channels(self.shape.layer) + 4 * self.query
        return 4 * rows * self.window * (8 * d + inner)

    def _logits(self) -> int:
        return 3 * 4 * self.window * self.shape.vocab_size

    def _evaluating(self) -> int:
        """Returns the bytes of a window's logits, and of the dense targets of all held-out windows."""
        _, heldout = heldout_windows(self.options.fitted_tokens, self.window)
        return self._logits() + 12 * TOP * heldout * self.window


def memory_text(count: int) -> str:
    """Returns bytes in words, as MiB or GiB."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
