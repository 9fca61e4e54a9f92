"""What `lathe evaluate` costs beside one plain forward pass of the same tokens in the same engine.

    make bench-evaluate MODEL=dir EVAL=text.txt BENCH='--windows 4 --rounds 3'

A plain pass is the engine called as its documentation says, on the same windows, with logits of every token
and nothing done with them: the model of transformers, or `InferenceSession.run` of the graph. Against it
stand perplexity, and perplexity with KL to the dense checkpoint, which is set against two passes, one of them
dense. Passes alternate. Writes build/bench/evaluate.json after every round and prints ratios of medians, of
wall time and of CPU time: on a busy machine, only the latter say something.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from lathe.artefact.atomic_files import write_json
from lathe.artefact.onnx.graph_format import GRAPH
from lathe.artefact.tokenizer import open_tokenizer
from lathe.compressor.evaluate.compare import load_model
from lathe.compressor.evaluate.perplexity import qualities, quality
from lathe.serving.loadtest.document import machine

GRAPHS: dict[str, list[str]] = {
    "onnx": [],
    "onnx-int8": ["--quantize", "int8"],
    "onnx-int4": ["--quantize", "int4"],
}
CHECKPOINT = "checkpoint"
Sample = dict[str, float]


def main() -> None:
    args = _arguments()
    windows, timed = _windows(args), _timed(args)
    passes = {name: partial(call, windows) for name, call in timed.items()}
    samples: dict[str, list[Sample]] = {name: [] for name in passes}
    for number in range(args.rounds):
        for name in list(passes)[:: 1 if number % 2 == 0 else -1]:
            samples[name].append(_sample(passes[name]))
        document = {
            "command": shlex.join(["python", "-m", "benchmarks.evaluate", *sys.argv[1:]]),
            "machine": machine() | {"threads": torch.get_num_threads()},
            "onnxruntime": ort.__version__,
            "torch": torch.__version__,
            "windows": [*windows.shape],
            "samples": samples,
            "ratios": _ratios(samples),
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.out, document)
    _print(samples, windows.numel())


def _windows(args: argparse.Namespace) -> torch.Tensor:
    """Returns the first windows of the text, [n, T]."""
    tokenizer = open_tokenizer(args.model)
    ids = tokenizer(Path(args.text).read_text(), verbose=False)["input_ids"]
    return torch.tensor(ids[: args.windows * args.window]).view(args.windows, args.window)


def _timed(args: argparse.Namespace) -> dict[str, Callable[[torch.Tensor], Any]]:
    """Returns everything that is timed, by "SYSTEM plain", "SYSTEM perplexity" and "SYSTEM kl"."""
    dense = load_model(args.model)
    timed: dict[str, Callable[[torch.Tensor], Any]] = {
        f"{CHECKPOINT} plain": partial(_plain_checkpoint, dense),
        f"{CHECKPOINT} perplexity": partial(quality, dense),
    }
    for name, options in GRAPHS.items():
        out = args.work / name
        if not (out / GRAPH).is_file():
            command = [sys.executable, "-m", "lathe", "export", args.model, "-o", str(out), *options]
            subprocess.run(command, check=True)
        graph = load_model(str(out))
        timed |= {
            f"{name} plain": _plain_graph(out / GRAPH),
            f"{name} perplexity": partial(quality, graph),
            f"{name} kl": partial(_compared, graph, dense),
        }
    return timed


def _compared(model: Any, dense: Any, windows: torch.Tensor) -> Any:
    return qualities([model], windows, dense=dense)


@torch.inference_mode()
def _plain_checkpoint(model: Any, windows: torch.Tensor) -> None:
    for tokens in windows:
        model(input_ids=tokens[None], use_cache=False)


def _plain_graph(path: Path) -> Callable[[torch.Tensor], None]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(str(path), options)
    caches = [node for node in session.get_inputs() if node.name.startswith("past_key_values.")]

    def plain(windows: torch.Tensor) -> None:
        length = windows.shape[1]
        feeds = {
            "seqlens_k": np.array([length - 1], np.int32),
            "total_sequence_length": np.array(length, np.int32),
            "logits_at": np.stack([np.zeros(length, np.int64), np.arange(length)], 1),
        } | {node.name: np.zeros((1, node.shape[1], length, node.shape[3]), np.float32) for node in caches}
        for tokens in windows:
            session.run(["logits"], feeds | {"input_ids": tokens[None].numpy()})

    return plain


def _sample(call: Callable[[], Any]) -> Sample:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def _ratios(samples: dict[str, list[Sample]]) -> dict[str, Sample]:
    """Returns what each measure takes over what its plain passes take."""
    found = {}
    for name in samples:
        system, _, measure = name.partition(" ")
        if measure == "plain":
            continue
        plain = [f"{system} plain", *([f"{CHECKPOINT} plain"] if measure == "kl" else [])]
        found[name] = {
            clock: _median(samples[name], clock) / sum(_median(samples[own], clock) for own in plain)
            for clock in ("wall", "cpu")
        }
    return found


def _median(samples: list[Sample], clock: str) -> float:
    return median(sample[clock] for sample in samples)


def _print(samples: dict[str, list[Sample]], tokens: int) -> None:
    ratios = _ratios(samples)
    for name, found in samples.items():
        line = f"{name:24}"
        for clock in ("wall", "cpu"):
            line += f"{1e3 * _median(found, clock) / tokens:8.2f} ms {clock} per token"
            line += f" (x{ratios[name][clock]:.2f})" if name in ratios else ""
        print(line)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a dense checkpoint")
    parser.add_argument("--text", required=True, help="a file")
    parser.add_argument("--window", type=int, default=2048, help="tokens of a window [2048]")
    parser.add_argument("--windows", type=int, default=4, help="their number [4]")
    parser.add_argument("--rounds", type=int, default=3, help="times that everything is run [3]")
    parser.add_argument("--work", type=Path, default=Path("build/evaluate"), help="where graphs lie")
    parser.add_argument("--out", type=Path, default=Path("build/bench/evaluate.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
