"""Methods side by side: loss increase over dense on held-out text, at several shares of parameters kept.

    make bench-quality MODEL=path TEXT=calibration.txt EVAL=heldout.txt

Every method sees the same model, calibration windows, parameter budget and evaluation code; a row is
one method, keep and seed. Writes JSON (build/bench/quality.json) after every row and prints a table.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ablations  # noqa: F401  registers variants of the default method
import torch

from compressor.calibration import token_windows
from compressor.latency.workload import parse_share
from compressor.pipeline.finish import finished_layer, reform
from compressor.pipeline.options import Options
from compressor.pipeline.preflight import preflight
from compressor.pipeline.prepare import WINDOW, Prepared, prepare
from compressor.pipeline.rundir import RunDirectory
from compressor.pipeline.solve import Solver
from compressor.progress import Progress, peak_memory_bytes

METHODS = "lathe,paper"


def main() -> None:
    args = _arguments()
    rows: list[dict[str, Any]] = []
    for method in args.methods.split(","):
        for seed in range(args.seeds):
            rows += _method(args, method, seed, rows)
    print(_table(rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", default="self", help="calibration text")
    parser.add_argument("--eval", required=True, help="held-out text; several files separated by commas")
    parser.add_argument("--keeps", default="80%,70%,60%,50%")
    parser.add_argument("--methods", default=METHODS, help="`ablations.py` adds more")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=65_536, help="calibration tokens")
    parser.add_argument(
        "--evaluations", default="", help="candidates, as method=number,...; default: each method's own"
    )
    parser.add_argument(
        "--windows", type=int, default=128, help=f"evaluation windows of {WINDOW} tokens per text"
    )
    parser.add_argument("--out", type=Path, default=Path("build/bench/quality.json"))
    return parser.parse_args()


def _method(
    args: argparse.Namespace, method: str, seed: int, before: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    counts = dict(pair.split("=") for pair in args.evaluations.split(",") if pair)
    options = Options(
        model=args.model,
        out=args.out.parent / "work" / f"{Path(args.model).name}-{method}-{seed}",
        keep=1.0,
        method=method,
        calibration=args.text,
        calibration_tokens=args.tokens,
        seed=seed,
        evaluations=int(counts[method]) if method in counts else None,
    )
    progress = Progress()
    card = preflight(options, progress)
    run = RunDirectory(options.out)
    prepared = prepare(options, card, run, progress)
    texts = {name: token_windows(card.source, name, WINDOW)[: args.windows] for name in args.eval.split(",")}
    dense = {name: _loss(prepared, prepared.layers, windows) for name, windows in texts.items()}
    rows: list[dict[str, Any]] = []
    for keep in args.keeps.split(","):
        at = replace(options, keep=parse_share(keep))
        start = time.perf_counter()
        solver = Solver(at, preflight(at, Progress(quiet=True)), prepared, run, progress)
        chosen = solver.solve()
        searched = time.perf_counter() - start
        name = reform(card, prepared, chosen, run, progress)
        layers = [finished_layer(run, name, i) for i in range(len(prepared.layers))]
        shape = card.source.shape
        kept = shape.decoder_parameters(chosen.plan) / shape.decoder_parameters(shape.dense_plan)
        for text, windows in texts.items():
            loss = _loss(prepared, layers, windows)
            rows.append(
                {
                    "method": method,
                    "keep": keep,
                    "seed": seed,
                    "kept": kept,
                    "text": Path(text).name,
                    "loss": loss,
                    "dense_loss": dense[text],
                    "increase": loss - dense[text],
                    "search_seconds": searched,
                    "candidates": chosen.candidates,
                    "peak_memory_bytes": peak_memory_bytes(),
                    "plan": chosen.plan.to_json()["layers"],
                }
            )
        _write(args, before + rows)
    return rows


@torch.inference_mode()
def _loss(prepared: Prepared, layers: list[Any], windows: torch.Tensor) -> float:
    hidden = prepared.embedding[windows]
    for weights in layers:
        hidden = torch.cat(
            [
                prepared.runner.ffn(weights, prepared.runner.attention(weights, part))
                for part in hidden.split(4)
            ]
        )
    return prepared.head.loss(windows, hidden)


def _write(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    args.out.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "model": args.model,
        "calibration": args.text,
        "unit": "nats per token",
        "machine": {"processor": platform.processor(), "torch": torch.__version__},
        "rows": rows,
    }
    args.out.write_text(json.dumps(document, indent=1) + "\n")


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| text | keep | method | loss increase (nats/token) | candidates | search s |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda r: (r["text"], r["keep"], r["method"], r["seed"]), reverse=True):
        lines.append(
            f"| {row['text']} | {row['keep']} | {row['method']} | {row['increase']:.3f} | "
            f"{row['candidates']} | {row['search_seconds']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
