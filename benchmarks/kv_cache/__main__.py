"""What an int8 KV cache costs and saves: loss, bytes, and milliseconds of decode steps.

    make bench-kv-cache MODEL=dir TEXT=train.txt EVAL=heldout.txt,other.txt BENCH='--times'

The dense model is exported with a float32 cache, with an int8 one, and with an int8 one whose scales are by
the largest value of each channel on the text instead of the largest length of each rotated pair. Each is
scored by ONNX Runtime on windows that are read in pieces of 256 tokens over one cache, with KL to the first.
With --times, decode steps of the first two take turns at every context, one thread. Without it, rows of
times that the document has stay. Writes JSON and prints a table.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime as ort
import torch

from benchmarks.windows import text_windows
from lathe.artefact.atomic_files import write_json
from lathe.artefact.errors import UserError
from lathe.artefact.onnx.graph_format import FOLDER, GRAPH
from lathe.artefact.onnx.runner import OnnxRunner
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.evaluate.onnx import OnnxModel
from lathe.compressor.evaluate.perplexity import qualities
from lathe.compressor.export.base import Export
from lathe.compressor.export.onnx import export_onnx
from lathe.compressor.latency.backend import backends
from lathe.compressor.latency.bench import take_turns
from lathe.compressor.latency.comparison import Comparison
from lathe.compressor.latency.workload import Workload
from lathe.compressor.model.cache_rounding import HIGHEST, CacheScales
from lathe.compressor.model.checkpoint import Checkpoint, open_checkpoint
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.statistics.cache_scales import TOKENS, measure_cache_scales
from lathe.serving.loadtest.document import machine

FLOAT, INT8, BY_VALUES = "float32", "int8", "int8, scales by largest values"
_WINDOW = 512
Row = dict[str, Any]


class LargestValues:
    """The scales of one layer by the largest value of each channel, in its cache's place."""

    def __init__(self) -> None:
        self._peaks: list[torch.Tensor] = []

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_args: Any) -> tuple[torch.Tensor, ...]:
        """Returns both as they are."""
        found = [states.abs().amax((0, 2)) for states in (keys, values)]
        self._peaks = [torch.maximum(*both) for both in zip(self._peaks or found, found, strict=True)]
        return keys, values

    def scales(self) -> CacheScales:
        return CacheScales(*(peaks.clamp(min=1e-6) / HIGHEST for peaks in self._peaks))


@torch.no_grad()
def by_largest_values(model: LayeredModel, windows: torch.Tensor) -> dict[int, CacheScales]:
    """Returns what `measure_cache_scales` does, by the largest value of each channel."""
    seen = {index: LargestValues() for index in range(len(model.layers))}
    for part in windows.split(4):
        hidden = model.embedding[part]
        for index, layer in enumerate(model.layers):
            hidden = model.runner.at(index).layer(layer, hidden, (seen[index], 0))
    return {index: each.scales() for index, each in seen.items()}


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    args = _parser().parse_args(arguments)
    document: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.kv_cache", *(arguments or sys.argv[1:])]),
        "machine": machine() | {"onnxruntime": ort.__version__, "threads": torch.get_num_threads()},
        "model": args.model,
        "quality": [],
        "times": _known_times(args),
    }
    try:
        source = open_checkpoint(args.model)
        graphs = _graphs(args, source)
        document["bytes"] = {name: _bytes(path) for name, path in graphs.items()}
        for text in args.eval.split(",") if args.eval else []:
            document["quality"] += _score(graphs, source, text, args)
            _write(args.out, document)
        if args.times:
            document["times"] = [_time(graphs, context) for context in args.contexts]
        _write(args.out, document)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(document), f"written to {args.out}", sep="\n\n")
    return 0


def _known_times(args: argparse.Namespace) -> list[Row]:
    """Returns the times of an earlier run with the same model."""
    known = json.loads(args.out.read_text()) if args.out.is_file() else {}
    return list(known["times"]) if known.get("model") == args.model else []


def _write(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, document)


def _graphs(args: argparse.Namespace, source: Checkpoint) -> dict[str, Path]:
    """Returns the graphs' directories; those that are there are kept."""
    names = (FLOAT, INT8, BY_VALUES) if args.eval else (FLOAT, INT8)
    found = {name: args.work / f"{source.name}-{number}" for number, name in enumerate(names)}
    missing = {name: path for name, path in found.items() if not (path / GRAPH).is_file()}
    if not missing:
        return found
    model, job = LayeredModel.open(source, ArrayStore()), Export.whole(source)
    windows = text_windows(source, args.text, _WINDOW, TOKENS // _WINDOW)
    measures: dict[str, Callable[[LayeredModel, torch.Tensor], dict[int, CacheScales]]] = {
        INT8: partial(measure_cache_scales, store=ArrayStore()),
        BY_VALUES: by_largest_values,
    }
    for name, path in missing.items():
        measure = measures.get(name)
        scales = measure(model, windows).__getitem__ if measure else None
        export_onnx(path, replace(job, cache_scales=scales))
    return found


def _bytes(directory: Path) -> dict[str, int]:
    runner = OnnxRunner(directory / GRAPH, max_batch=1, max_length=1)
    return {"weights": runner.weight_bytes, "kv_per_token": runner.kv_bytes_per_token}


def _score(graphs: dict[str, Path], source: Checkpoint, text: str, args: argparse.Namespace) -> list[Row]:
    windows = text_windows(source, text, min(args.window, source.positions), args.windows)
    models = [OnnxModel(path) for path in graphs.values()]
    scored = qualities(models, windows, dense=models[0])
    return [
        {
            "text": Path(text).name,
            "cache": name,
            "windows": list(windows.shape),
            "loss": found.loss,
            "increase": found.loss - scored[0].loss,
            "kl": found.kl,
            "agreement": found.agreement,
        }
        for name, found in zip(graphs, scored, strict=True)
    ]


def _time(graphs: dict[str, Path], context: int) -> Row:
    """Returns the milliseconds of a decode step at a context, of graphs that take turns."""
    workload, backend = Workload("tpot", 1, context), backends.get("onnx")
    steps = {name: backend.prepare(graphs[name] / FOLDER, workload, 1) for name in (FLOAT, INT8)}
    turns = [take_turns(steps) for _ in range(4)]
    first, second = (sum((turn[name] for turn in turns[1:]), turns[0][name]) for name in (FLOAT, INT8))
    ratio = Comparison(first, second).paired
    return {
        "context": context,
        "float32_ms": first.median,
        "int8_ms": second.median,
        "ratio": ratio.value,
        "standard_error": ratio.standard_error,
    }


def table(document: dict[str, Any]) -> str:
    """Returns quality and times as Markdown."""
    lines = ["| text | KV cache | bytes of a token | loss increase | KL |", "|---|---|---|---|---|"]
    for row in document["quality"]:
        size = document["bytes"][row["cache"]]["kv_per_token"]
        lines.append(
            f"| {row['text']} | {row['cache']} | {size:,} | {row['increase']:+.5f} | {row['kl']:.5f} |"
        )
    if document["times"]:
        lines += ["", "| context | float32, ms | int8, ms | int8 / float32 |", "|---|---|---|---|"]
    for row in document["times"]:
        both = f"{row['float32_ms']:.3g} | {row['int8_ms']:.3g}"
        lines.append(f"| {row['context']:,} | {both} | {row['ratio']:.3f} ± {row['standard_error']:.3f} |")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kv_cache",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, help="a checkpoint directory")
    add("--text", required=True, help="the text that scales are from")
    add("--eval", default="", help="texts to score on, with commas; without, nothing is scored")
    add("--window", type=int, default=2048, help="tokens of a window that is scored")
    add("--windows", type=int, default=8, help="how many of each text")
    add("--times", action="store_true", help="time decode steps, too")
    add("--contexts", type=lambda text: [int(part) for part in text.split(",")], default=[256, 2047])
    add("--work", type=Path, default=Path("build/bench/kv-cache"), help="where the graphs are kept")
    add("--out", type=Path, default=Path("build/bench/kv-cache.json"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
