"""Calibrate and order: token windows, statistics, rankings and dampings, each kept in the run directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property, partial
from pathlib import Path

import torch

from compressor.calibration import Calibration, load_calibration
from compressor.forward import Weights
from compressor.layered import LayeredModel
from compressor.order import orders
from compressor.pipeline.options import WINDOW, Options
from compressor.pipeline.preflight import Card
from compressor.pipeline.rundir import RunDirectory, Saved, key, source_key
from compressor.plan import LayerShape
from compressor.progress import Progress
from compressor.projection import seen
from compressor.reform import choose_damping
from compressor.room import Room, Rows
from compressor.search.errors import level_errors
from compressor.statistics import LayerStatistics, collect_layer
from compressor.statistics.collect import BATCH, LASTING, batches
from compressor.surgery import LayerOrder, rows, select

RANKED = tuple(field.name for field in fields(LayerOrder))

@dataclass(frozen=True)
class Prepared:
    """All that searches and reforms read. key: names it and the space. windows: [n, T] fitted and held-out;
    heldout: [n] bool. room: where big arrays are kept."""

    key: str
    model: LayeredModel
    windows: torch.Tensor
    heldout: torch.Tensor
    statistics: list[SavedStatistics]
    orders: list[LayerOrder]
    dampings: list[tuple[float, float]]
    errors: list[dict[str, torch.Tensor]]
    room: Room

    def embedded(self, windows_BT: torch.Tensor) -> Rows:
        """[B, T, D]: what the first layer reads."""
        hidden = self.room.rows(*windows_BT.shape, self.model.runner.shape.hidden_size)
        for part in torch.arange(len(windows_BT)).split(BATCH):
            hidden[part] = self.model.embedding[windows_BT[part]]
        return hidden


@dataclass(frozen=True)
class SavedStatistics:
    """Of one layer, read from the run directory when asked for."""

    saved: Saved

    @property
    def attention(self) -> torch.Tensor:
        return self.saved["attention"]

    @property
    def ffn(self) -> torch.Tensor:
        return self.saved["ffn"]

    @property
    def queries(self) -> torch.Tensor:
        return self.saved["queries"]

    @property
    def keys(self) -> torch.Tensor:
        return self.saved["keys"]


def prepare(options: Options, card: Card, run: RunDirectory, progress: Progress) -> Prepared:
    """Run the calibrate and order stages, or take their results from an earlier run."""
    source, room = card.source, Room(run.path if card.memory.on_disk else None)
    text_key = key(
        source_key(source), _text_key(options.calibration), options.calibration_tokens, options.seed
    )
    text = run.tensors(f"calibration-{text_key}", partial(_calibrate, options, card, room, progress))
    windows, heldout = text["windows"], text["heldout"].bool()
    model = LayeredModel.open(source, room)
    layer_key = key(text_key, card.method.order, asdict(card.space), RANKED)
    prepared = Prepared(layer_key, model, windows, heldout, [], [], [], [], room)
    layers, walk = model.layers, _Walk(model, partial(prepared.embedded, windows), heldout)
    with progress.stage("calibrate and order: layers", len(layers)) as bar:
        for index in range(len(layers)):
            saved = run.saved(
                f"layer-{layer_key}-{index:03d}", partial(_order, card, layers, walk, index, room.bounded)
            )
            prepared.statistics.append(SavedStatistics(saved))
            prepared.orders.append(LayerOrder(*(saved[name] for name in RANKED)))
            prepared.dampings.append((float(saved["damping"][0]), float(saved["damping"][1])))
            prepared.errors.append({kind: saved[f"errors.{kind}"] for kind in ("attention", "ffn")})
            bar.advance()
    return prepared


class _Walk:
    """The dense hidden states, moved on layer by layer; after a resume only as far as needed."""

    def __init__(
        self, model: LayeredModel, embedded: Callable[[], Rows], heldout: torch.Tensor
    ) -> None:
        self._runner, self._layers = model.runner, model.layers
        self._embedded, self._heldout = embedded, heldout
        self._at = 0

    @cached_property
    def _hidden(self) -> Rows:
        return self._embedded()

    def collect(self, index: int) -> LayerStatistics:
        while self._at < index:
            self._step()
        runner = self._runner.at(index)
        found = collect_layer(runner, self._layers[index], self._hidden, self._heldout)
        self._at += 1
        return found

    @torch.inference_mode()
    def _step(self) -> None:
        weights, runner = self._layers[self._at], self._runner.at(self._at)
        for part in batches(self._heldout):
            self._hidden[part] = runner.layer(weights, self._hidden[part])
        self._at += 1


def _calibrate(
    options: Options, card: Card, room: Room, progress: Progress
) -> dict[str, torch.Tensor]:
    found: Calibration = load_calibration(
        card.source, options.calibration, tokens=options.calibration_tokens, window=WINDOW, seed=options.seed,
        progress=progress, room=room,
    )  # fmt: skip
    flags = torch.cat([torch.zeros(len(found.fit)), torch.ones(len(found.heldout))])
    return {"windows": torch.cat([found.fit, found.heldout]), "heldout": flags}


def _order(
    card: Card, layers: Sequence[Weights], walk: _Walk, index: int, lasting_only: bool
) -> dict[str, torch.Tensor]:
    found, weights = walk.collect(index), layers[index]
    family, shape = card.source.family, card.source.shape
    order = orders.get(card.method.order)(family, shape, weights, found)
    heads = [
        rows(select(order, LayerShape(q, kv, 0)).query_heads, shape.head_dim)
        for q, kv in card.space.attention[1:-1]
    ] or [torch.arange(shape.layer.query_heads * shape.head_dim)]
    widths = [round(shape.layer.ffn * share) for share in (0.75, 0.5, 0.25)]
    channels = [order.channels[..., :width].flatten() for width in widths]
    damping = [
        choose_damping(seen(family, shape, weights, kind), fit, heldout, kept, ranked)
        for kind, fit, heldout, kept, ranked in (
            ("attention", found.attention, found.attention_heldout, heads, None),
            ("ffn", found.ffn, found.ffn_heldout, channels, order.channels),
        )
    ]
    errors = level_errors(family, shape, card.space, weights, found, order, (damping[0], damping[1]))
    names = LASTING if lasting_only else found.tensors()
    lasting = {name: getattr(found, name) for name in names}
    return {
        **lasting, **order.tensors(), "damping": torch.tensor(damping, dtype=torch.float64),
        **{f"errors.{kind}": values for kind, values in errors.items()},
    }  # fmt: skip


def _text_key(argument: str) -> str:
    paths = [Path(part) for part in (argument, *argument.split(","))]
    files = sorted({p for path in paths for p in (path, *path.rglob("*")) if p.is_file()})
    return key(argument, [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files])
