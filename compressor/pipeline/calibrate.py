"""Calibrate and order: token windows, statistics, rankings and dampings, each kept in the run directory."""

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
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.compute.device import CPU, DeviceMemory
from lathe.compressor.compute.progress import Progress
from lathe.compressor.compute.workers import LocalWorkers, Workers
from lathe.compressor.importance import importance_methods
from lathe.compressor.model.checkpoint_fingerprint import quick_fingerprint, weight_files
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.model.output_projection import norm_scaled_weight
from lathe.compressor.model.pruning import ImportanceRanking, rows, select
from lathe.compressor.pipeline.inputs import text_key
from lathe.compressor.pipeline.options import WINDOW, Options
from lathe.compressor.pipeline.preflight import PreflightResult
from lathe.compressor.pipeline.run_directory import RunDirectory, Saved, Tensors, key
from lathe.compressor.reconstruction import choose_damping
from lathe.compressor.search.level_errors import level_errors
from lathe.compressor.search.space import Space
from lathe.compressor.statistics import LayerStatistics
from lathe.compressor.statistics.calibration_pass import CalibrationPass, LayerCollector
from lathe.compressor.statistics.collect import LASTING, LayerAccumulators
from lathe.compressor.statistics.gram import merged

_SETS = 4
"""Sets of heads, at most, that a damping is chosen by."""
RANKED = tuple(field.name for field in fields(ImportanceRanking))


@dataclass(frozen=True)
class CalibrationResult:
    """All that search and reconstruction read. key: of it and the space. windows: [n, T] fitted and held-out;
    heldout: [n] bool. store: where big arrays are kept. workers: who does what can be spread.
    """

    key: str
    model: LayeredModel
    windows: torch.Tensor
    heldout: torch.Tensor
    statistics: list[SavedStatistics]
    rankings: list[ImportanceRanking]
    dampings: list[tuple[float, float]]
    errors: list[dict[BlockKind, torch.Tensor]]
    store: ArrayStore
    workers: Workers


@dataclass(frozen=True)
class SavedStatistics:
    """Of one layer, read from the run directory to a device when asked for."""

    saved: Saved
    device: torch.device

    @property
    def attention(self) -> torch.Tensor:
        return self._read("attention")

    @property
    def ffn(self) -> torch.Tensor:
        return self._read("ffn")

    @property
    def queries(self) -> torch.Tensor:
        return self._read("queries")

    @property
    def keys(self) -> torch.Tensor:
        return self._read("keys")

    def _read(self, name: str) -> torch.Tensor:
        return self.saved[name].to(self.device)


def prepare(
    options: Options,
    card: PreflightResult,
    run: RunDirectory,
    progress: Progress,
    workers: Workers | None = None,
) -> CalibrationResult:
    """Run the calibrate and order stages, or take their results from an earlier run."""
    workers = workers or LocalWorkers()
    source, store = card.source, ArrayStore(run.path if card.memory.on_disk else None, options.where)
    if store.device != CPU:
        progress.device = DeviceMemory(store.device)
    _compare(card, run, progress)
    named = text_key(card, options.seed)
    text = run.tensors(f"calibration-{named}", partial(_calibrate, options, card, store, workers, progress))
    windows, heldout = text["windows"], text["heldout"].bool()
    model = LayeredModel.open(source, store)
    layer_key = key(named, card.method.importance, asdict(card.space), RANKED)
    prepared = CalibrationResult(layer_key, model, windows, heldout, [], [], [], [], store, workers)
    names = [f"layer-{layer_key}-{index:03d}" for index in range(len(model.layers))]
    ordering = Ordering(model, card.method.importance, card.space, LASTING if store.bounded else None)
    found = _ordered(ordering, prepared, [i for i, name in enumerate(names) if not run.has(name)])
    with progress.stage("calibrate and order: layers", len(names)) as bar:
        for name in names:
            saved = run.saved(name, partial(next, found))
            prepared.statistics.append(SavedStatistics(saved, store.device))
            prepared.rankings.append(ImportanceRanking(*(saved[name] for name in RANKED)))
            attention, ffn = saved["damping"].tolist()
            prepared.dampings.append((attention, ffn))
            prepared.errors.append({kind: saved[f"errors.{kind}"] for kind in BLOCK_KINDS})
            bar.advance()
    return prepared


def _compare(card: PreflightResult, run: RunDirectory, progress: Progress) -> None:
    """Whether transformers reads the model as we do; once for its files, also where a run is resumed."""
    source = card.source

    def compared() -> str:
        found = check_agreement(source, whole=not card.memory.on_disk)
        progress.say(f"{source.name} {found}")
        return found

    try:
        run.json(f"agreement-{quick_fingerprint(source.config, weight_files(source))}", compared)
    except UserError:
        if not run.resumed:
            run.remove()
        raise


def _ordered(ordering: Ordering, prepared: CalibrationResult, missing: Sequence[int]) -> Iterator[Tensors]:
    """Of some layers, in order: as many at a time as there are workers."""
    p, workers, together = prepared, prepared.workers, prepared.workers.count
    walk = CalibrationPass(p.model, p.windows, p.heldout, p.store)
    for start in range(0, len(missing), together):
        layers = missing[start : start + together]
        sums = [merged(chain(*workers.ask(walk, LayerCollector.collect, index))) for index in layers]
        yield from workers.map(ordering, zip(layers, map(LayerAccumulators.statistics, sums), strict=True))


def _calibrate(
    options: Options, card: PreflightResult, store: ArrayStore, workers: Workers, progress: Progress
) -> dict[str, torch.Tensor]:
    found: Calibration = load_calibration(
        card.source,
        options.calibration,
        tokens=options.calibration_tokens,
        window=WINDOW,
        seed=options.seed,
        progress=progress,
        store=store,
        workers=workers,
        text=card.texts.calibration,
    )
    flags = torch.cat([torch.zeros(len(found.fit)), torch.ones(len(found.heldout))])
    return {"windows": torch.cat([found.fit, found.heldout]), "heldout": flags}


@dataclass(frozen=True)
class Ordering:
    """Ranks a layer's groups and channels, chooses its dampings and tells the errors of its levels. lasting:
    names of the statistics that are kept; None: all.
    """

    model: LayeredModel
    importance: str
    space: Space
    lasting: Sequence[str] | None

    def __call__(self, asked: tuple[int, LayerStatistics]) -> Tensors:
        """(layer, its statistics) -> what is kept of it, by name."""
        index, found = asked
        weights, runner = self.model.layers[index], self.model.runner
        family, shape = runner.family, runner.shape
        ranking = importance_methods.get(self.importance)(family, shape, weights, found)
        between = self.space.attention[1:-1]
        heads = [
            rows(select(ranking, LayerShape(q, kv, 0)).query_heads, shape.head_dim)
            for q, kv in between[:: math.ceil(len(between) / _SETS) or 1]
        ] or [torch.arange(shape.layer.query_heads * shape.head_dim)]
        widths = [round(shape.layer.ffn * share) for share in (0.75, 0.5, 0.25)]
        channels = [ranking.channels[..., :width].flatten() for width in widths]
        sides = (
            (found.attention, found.attention_heldout, heads, None),
            (found.ffn, found.ffn_heldout, channels, ranking.channels),
        )
        chosen = [
            choose_damping(norm_scaled_weight(family, shape, weights, kind), fit, heldout, kept, ranked)
            for kind, (fit, heldout, kept, ranked) in zip(BLOCK_KINDS, sides, strict=True)
        ]
        damping, pruners = zip(*chosen, strict=True)
        errors = level_errors(shape, self.space, ranking, dict(zip(BLOCK_KINDS, pruners, strict=True)))
        lasting = {name: getattr(found, name) for name in self.lasting or found.tensors()}
        return {
            **lasting,
            **ranking.tensors(),
            "damping": torch.tensor(damping, dtype=torch.float64),
            **{f"errors.{kind}": values for kind, values in errors.items()},
        }
