"""Calibrate and order: token windows, statistics, rankings and dampings, each kept in the run directory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import torch

from compressor.calibration import Calibration, load_calibration
from compressor.forward import BlockRunner, Embedding, Weights, embedding
from compressor.order import orders
from compressor.pipeline.options import WINDOW, Options
from compressor.pipeline.preflight import Card
from compressor.pipeline.rundir import RunDirectory, key, source_key
from compressor.plan import LayerShape
from compressor.progress import Progress
from compressor.projection import seen
from compressor.reform import choose_damping
from compressor.search.fitness import Head
from compressor.statistics import LayerStatistics, collect_layer
from compressor.statistics.collect import batches
from compressor.surgery import LayerOrder, rows, select


@dataclass(frozen=True)
class Prepared:
    """All that searches and reforms read. key: names it and the space. windows: [n, T] fitted and held-out;
    heldout: [n] bool."""

    key: str
    runner: BlockRunner
    head: Head
    embedding: Embedding
    layers: list[Weights]
    windows: torch.Tensor
    heldout: torch.Tensor
    statistics: list[LayerStatistics]
    orders: list[LayerOrder]
    dampings: list[tuple[float, float]]


def prepare(options: Options, card: Card, run: RunDirectory, progress: Progress) -> Prepared:
    """Run the calibrate and order stages, or take their results from an earlier run."""
    source = card.source
    text_key = key(
        source_key(source), _text_key(options.calibration), options.calibration_tokens, options.seed
    )
    saved = run.tensors(f"calibration-{text_key}", lambda: _calibrate(options, card, progress))
    windows, heldout = saved["windows"], saved["heldout"].bool()
    runner = BlockRunner(source)
    table = source.tensor(f"{source.family.embedding}.weight")
    embedded = embedding(source, table)
    output = table if source.shape.tied_embeddings else source.tensor(f"{source.family.head}.weight")
    cap = source.config.get("final_logit_softcapping")
    head = Head(runner, source.module(source.family.final_norm), output, cap)
    layers: list[Weights] = [source.layer(i) for i in range(source.shape.num_layers)]
    layer_key = key(text_key, card.method.order, asdict(card.space))
    walk = _Walk(runner, layers, embedded[windows], heldout)
    prepared = Prepared(layer_key, runner, head, embedded, layers, windows, heldout, [], [], [])
    with progress.stage("calibrate and order: layers", len(layers)) as bar:
        for index, weights in enumerate(layers):
            tensors = run.tensors(
                f"layer-{layer_key}-{index:03d}",
                partial(_order, card, weights, partial(walk.collect, index)),
            )
            prepared.statistics.append(
                LayerStatistics(**{f.name: tensors[f.name] for f in fields(LayerStatistics)})
            )
            prepared.orders.append(LayerOrder(tensors["groups"], tensors["heads"], tensors["channels"]))
            prepared.dampings.append((float(tensors["damping"][0]), float(tensors["damping"][1])))
            bar.advance()
    return prepared


class _Walk:
    """The dense hidden states, moved on layer by layer; after a resume only as far as needed."""

    def __init__(
        self, runner: BlockRunner, layers: list[Weights], embedded: torch.Tensor, heldout: torch.Tensor
    ) -> None:
        self._runner, self._layers, self._hidden, self._heldout = runner, layers, embedded, heldout
        self._at = 0

    def collect(self, index: int) -> LayerStatistics:
        while self._at < index:
            self._step()
        runner = self._runner.at(index)
        found, self._hidden = collect_layer(runner, self._layers[index], self._hidden, self._heldout)
        self._at += 1
        return found

    @torch.inference_mode()
    def _step(self) -> None:
        weights, runner = self._layers[self._at], self._runner.at(self._at)
        for part in batches(self._heldout):
            self._hidden[part] = runner.layer(weights, self._hidden[part])
        self._at += 1


def _calibrate(options: Options, card: Card, progress: Progress) -> dict[str, torch.Tensor]:
    found: Calibration = load_calibration(
        card.source, options.calibration, tokens=options.calibration_tokens, window=WINDOW, seed=options.seed,
        progress=progress,
    )
    flags = torch.cat([torch.zeros(len(found.fit)), torch.ones(len(found.heldout))])
    return {"windows": torch.cat([found.fit, found.heldout]), "heldout": flags}


def _order(card: Card, weights: Weights, collect: Callable[[], LayerStatistics]) -> dict[str, torch.Tensor]:
    found = collect()
    family, shape = card.source.family, card.source.shape
    order = orders.get(card.method.order)(family, shape, weights, found)
    heads = [
        rows(select(order, LayerShape(q, kv, 0)).query_heads, shape.head_dim)
        for q, kv in card.space.attention[1:-1]
    ] or [torch.arange(shape.layer.query_heads * shape.head_dim)]
    widths = [round(shape.layer.ffn * share) for share in (0.75, 0.5, 0.25)]
    channels = [order.channels[..., :width].flatten() for width in widths]
    damping = [
        choose_damping(seen(family, shape, weights, kind), fit, heldout, kept)
        for kind, fit, heldout, kept in (
            ("attention", found.attention, found.attention_heldout, heads),
            ("ffn", found.ffn, found.ffn_heldout, channels),
        )
    ]
    return {**found.tensors(), **order.tensors(), "damping": torch.tensor(damping, dtype=torch.float64)}


def _text_key(argument: str) -> str:
    paths = [Path(part) for part in (argument, *argument.split(","))]
    files = sorted({p for path in paths for p in (path, *path.rglob("*")) if p.is_file()})
    return key(argument, [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files])
