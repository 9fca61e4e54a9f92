"""Calibration: token windows, statistics, rankings and dampings, each kept in the run directory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import chain

import torch

from lathe.artefact.errors import UserError
from lathe.artefact.plan import BLOCK_KINDS, BlockKind, LayerShape
from lathe.compressor.agreement.check import check_agreement
from lathe.compressor.calibration import Calibration, load_calibration
from lathe.compressor.calibration.tokens import evenly_spaced
from lathe.compressor.compute.device import CPU
from lathe.compressor.compute.workers import Workers
from lathe.compressor.importance import importance_methods, needs_block_inputs
from lathe.compressor.model.checkpoint_fingerprint import quick_fingerprint, weight_files
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.model.output_projection import norm_scaled_weight
from lathe.compressor.model.pruning import ImportanceRanking, rows, select
from lathe.compressor.pipeline.inputs import text_key
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.pipeline.run_directory import Saved, SavedRows, Tensors, key
from lathe.compressor.reconstruction import DAMPINGS, choose_damping
from lathe.compressor.search.level_errors import level_errors
from lathe.compressor.search.space import Space
from lathe.compressor.statistics import LayerStatistics
from lathe.compressor.statistics.calibration_pass import CalibrationPass, LayerCollector
from lathe.compressor.statistics.collect import LASTING, LayerAccumulators
from lathe.compressor.statistics.gram import merge_into_first

_SETS = 4
"""The largest number of sets of heads that a damping is chosen by."""
_STATES = "states"
RANKED = tuple(field.name for field in fields(ImportanceRanking))


@dataclass(frozen=True)
class CalibrationResult:
    """The input of search and reconstruction.

    Attributes:
        key: Names the calibration text, the ranking and the space.
        model: The dense model, layer by layer.
        windows: [n, T] tokens, those for fitting and those held out.
        heldout: [n] bool; true where a window is held out.
        statistics: Of every layer.
        rankings: The importance ranking of every layer.
        dampings: (attention, FFN) of every layer.
        errors: The squared errors of every layer's levels, by block kind.
        last: The windows' dense hidden states after the last layer, where the method reads them again.
    """

    key: str
    model: LayeredModel
    windows: torch.Tensor
    heldout: torch.Tensor
    statistics: list[SavedStatistics]
    rankings: list[ImportanceRanking]
    dampings: list[tuple[float, float]]
    errors: list[dict[BlockKind, torch.Tensor]]
    last: SavedRows | None

    def fitted(self, tokens: int) -> torch.Tensor:
        """Returns windows [n, T] that are not held out, from all over the text, with about so many tokens."""
        return self.sample(max(1, tokens // self.windows.shape[1]), 0)[0]

    def sample(self, fitted: int, heldout: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns windows [n, T] from all over the text, and which are held out [n].

        Args:
            fitted: The most windows to fit on.
            heldout: The most windows that are held out; None takes all.
        """
        fit, apart = (torch.nonzero(self.heldout == held)[:, 0] for held in (False, True))
        kept = torch.cat(
            [evenly_spaced(fit, fitted), apart if heldout is None else evenly_spaced(apart, heldout)]
        )
        return self.windows[kept], self.heldout[kept]


@dataclass(frozen=True)
class SavedStatistics:
    """One layer's statistics, read from the run directory to a device when asked for."""

    saved: Saved
    device: torch.device

    @property
    def attention(self) -> torch.Tensor:
        """The Gram matrix of what the attention output projection reads."""
        return self._read("attention")

    @property
    def ffn(self) -> torch.Tensor:
        """The Gram matrix of what the FFN output projection reads."""
        return self._read("ffn")

    @property
    def queries(self) -> torch.Tensor:
        """The second moments of the queries."""
        return self._read("queries")

    @property
    def keys(self) -> torch.Tensor:
        """The second moments of the keys."""
        return self._read("keys")

    def _read(self, name: str) -> torch.Tensor:
        return self.saved[name].to(self.device)


def calibrate(
    context: RunContext, dampings: Sequence[float] | None = None, model: LayeredModel | None = None
) -> CalibrationResult:
    """Collects statistics and ranks every layer, or takes the results from an earlier run.

    Args:
        context: The run.
        dampings: Those that are tried for every projection; None for those that the options say.
        model: The dense model, if it is open already.
    """
    if dampings is None:
        dampings = (context.options.damping,) if context.options.damping else DAMPINGS
    preflight, store, method = context.preflight, context.store, context.preflight.method
    _check_agreement(context)
    named = text_key(preflight, context.options.seed)
    text = context.run_dir.tensors(f"calibration-{named}", partial(_read_text, context))
    windows, heldout = text["windows"], text["heldout"].bool()
    model = model or LayeredModel.open(preflight.source, store)
    layer_key = key(named, method.importance, method.bfloat16, asdict(preflight.space), RANKED, dampings)
    lasting = LASTING if store.bounded else None
    ranker = LayerRanker(model, method.importance, preflight.space, lasting, dampings)
    inputs = needs_block_inputs(method.importance)
    text_pass = CalibrationPass(model, windows, heldout, store, inputs, method.bfloat16)
    layers = _rank_layers(context, ranker, text_pass, layer_key)
    last = None
    if method.whole_rounds:
        states = context.run_dir.saved(
            f"dense-{layer_key}", partial(_last_states, context.workers, text_pass)
        )
        last = SavedRows(states, _STATES, store.device)
    rankings = [ImportanceRanking(*(saved[name] for name in RANKED)) for saved in layers]
    return CalibrationResult(
        layer_key,
        model,
        windows,
        heldout,
        statistics=[SavedStatistics(saved, store.device) for saved in layers],
        rankings=rankings,
        dampings=[_dampings(saved) for saved in layers],
        errors=[{kind: saved[f"errors.{kind}"] for kind in BLOCK_KINDS} for saved in layers],
        last=last,
    )


def _last_states(workers: Workers, calibration_pass: CalibrationPass) -> Tensors:
    """Returns the dense hidden states of all windows after the last layer."""
    made: torch.Tensor | None = None
    for part, states in chain(*workers.map_shards(calibration_pass, LayerCollector.last)):
        made = torch.empty(len(calibration_pass.windows), *states.shape[1:]) if made is None else made
        made[part] = states.to(CPU)
    return {} if made is None else {_STATES: made}


def _dampings(saved: Saved) -> tuple[float, float]:
    attention, ffn = saved["damping"].tolist()
    return attention, ffn


def _check_agreement(context: RunContext) -> None:
    """Compares our forward pass with that of transformers, once for the model's files.

    Raises:
        UserError: they differ.
    """
    source, run_dir = context.preflight.source, context.run_dir

    def compared() -> str:
        found = check_agreement(source, whole=context.preflight.memory.loads_whole)
        context.progress.say(f"{source.name} {found}")
        return found

    try:
        run_dir.json(f"agreement-{quick_fingerprint(source.config, weight_files(source))}", compared)
    except UserError:
        if not run_dir.resumed:
            run_dir.remove()
        raise


def _rank_layers(
    context: RunContext, ranker: LayerRanker, calibration_pass: CalibrationPass, layer_key: str
) -> list[Saved]:
    """Returns what is saved of every layer, computed now where it is missing."""
    run_dir = context.run_dir
    names = [f"layer-{layer_key}-{index:03d}" for index in range(len(ranker.model.layers))]
    missing = [index for index, name in enumerate(names) if not run_dir.has(name)]
    ranked = _ranked(context.workers, ranker, calibration_pass, missing)
    layers = []
    with context.progress.stage("calibrate and rank: layers", len(names)) as bar:
        for name in names:
            layers.append(run_dir.saved(name, partial(next, ranked)))
            bar.advance()
    return layers


def _ranked(
    workers: Workers, ranker: LayerRanker, calibration_pass: CalibrationPass, missing: Sequence[int]
) -> Iterator[Tensors]:
    """Yields the results of these layers in order, as many at a time as there are workers."""
    for start in range(0, len(missing), workers.count):
        layers = missing[start : start + workers.count]
        sums = [
            merge_into_first(chain(*workers.map_shards(calibration_pass, LayerCollector.collect, index)))
            for index in layers
        ]
        yield from workers.map(ranker, zip(layers, map(LayerAccumulators.finalize, sums), strict=True))


def _read_text(context: RunContext) -> Tensors:
    """Returns the windows of the calibration text, and which are held out."""
    found: Calibration = load_calibration(
        context.preflight.source,
        context.preflight.texts.calibration,
        seed=context.options.seed,
        progress=context.progress,
        store=context.writing_store,
        workers=context.workers,
    )
    flags = torch.cat([torch.zeros(len(found.fit)), torch.ones(len(found.heldout))])
    return {"windows": torch.cat([found.fit, found.heldout]), "heldout": flags}


@dataclass(frozen=True)
class LayerRanker:
    """Ranks a layer's groups and channels, chooses its dampings, and computes the errors of its levels.

    Attributes:
        model: The dense model.
        importance: The name of the importance method.
        space: The levels.
        lasting: Names of the statistics that are saved; None saves all.
        dampings: Those that are tried.
    """

    model: LayeredModel
    importance: str
    space: Space
    lasting: Sequence[str] | None
    dampings: Sequence[float]

    def __call__(self, task: tuple[int, LayerStatistics]) -> Tensors:
        """Maps (layer, its statistics) to what is saved of the layer, by name."""
        index, statistics = task
        weights, runner = self.model.layers[index], self.model.runner
        shape = runner.shape
        ranking = importance_methods.get(self.importance)(shape, weights, statistics)
        widths = [round(shape.layer.ffn * share) for share in (0.75, 0.5, 0.25)]
        channels = [ranking.channels[..., :width].flatten() for width in widths]
        sides = (
            (statistics.attention, statistics.attention_heldout, self._heads(ranking), None),
            (statistics.ffn, statistics.ffn_heldout, channels, ranking.channels),
        )
        chosen = [
            choose_damping(
                norm_scaled_weight(shape, weights, kind), fit, heldout, kept, ranked, self.dampings
            )
            for kind, (fit, heldout, kept, ranked) in zip(BLOCK_KINDS, sides, strict=True)
        ]
        damping, pruners = zip(*chosen, strict=True)
        by_kind = dict(zip(BLOCK_KINDS, pruners, strict=True))
        errors = level_errors(shape, self.space, ranking, by_kind)
        return {
            **{name: getattr(statistics, name) for name in self.lasting or statistics.tensors()},
            **ranking.tensors(),
            "damping": torch.tensor(damping, dtype=torch.float64),
            **{f"errors.{kind}": values for kind, values in errors.items()},
        }

    def _heads(self, ranking: ImportanceRanking) -> list[torch.Tensor]:
        """Returns the sets of attention outputs that a damping is chosen by."""
        shape, between = self.model.runner.shape, self.space.attention[1:-1]
        sets = [
            rows(select(ranking, LayerShape(q, kv, 0)).query_heads, shape.head_dim)
            for q, kv in between[:: math.ceil(len(between) / _SETS) or 1]
        ]
        return sets or [torch.arange(shape.layer.query_heads * shape.head_dim)]
