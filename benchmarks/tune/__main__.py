"""Samplers of `lathe tune` at equal budget: TPE and NOMAD against points at random.

    make bench-tune MODEL=dir BENCH='--seeds 10 --trials 24'

A trial is a whole run of the pipeline at full fidelity. The space is small enough that the samplers meet the
same points again and again: each is run once and kept in --points, so that a sampler and a seed more cost
little. Trial 0 is the default for all. Text is what the model writes itself, unless --text and --eval are
given.

Writes JSON and, beside it, a plot: the best loss after each trial, its median over the seeds and the band
from the first to the third quartile. Prints a table: how far the best after some trials lies above the best
point that anybody found, and how often each sampler was ahead of random points with the same seed.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import optuna
import torch

from benchmarks.tune.known_points import KnownPoints
from benchmarks.tune.plot import plot
from benchmarks.tune.table import table
from lathe.artefact.atomic_files import write_bytes, write_json
from lathe.artefact.errors import UserError
from lathe.compressor.compute.progress import Progress
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.preflight import run_preflight
from lathe.compressor.tuning.evaluation_text import write_evaluation_text
from lathe.compressor.tuning.sampler import samplers
from lathe.compressor.tuning.search import Search
from lathe.compressor.tuning.space import TuningSpace, tuning_space
from lathe.compressor.tuning.trial_runner import TrialRunner
from lathe.serving.loadtest.document import machine

SPACE = (
    "calibration-tokens=1024..4096",
    "method=quick,fast",
    "refinements=0,1",
    "damping=auto,0.0001,0.001,0.01,0.1",
    "ffn-levels=4..32",
)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    args = _parser().parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        document = compare(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    command = shlex.join(["python", "-m", "benchmarks.tune", *(arguments or sys.argv[1:])])
    document = {"command": command, "machine": _machine(), **document}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, document)
    write_bytes(args.out.with_suffix(".svg"), plot(document).encode())
    print(table(document))
    return 0


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Runs every sampler with every seed; returns the losses of their trials."""
    base = _base(args)
    preflight = run_preflight(base, Progress())
    space = tuning_space(SPACE, None, base, preflight.source.shape)
    known = KnownPoints(args.points, TrialRunner(base, preflight))
    curves: dict[str, list[list[float]]] = {name: [] for name in args.samplers.split(",")}
    for seed in range(args.seeds):
        for name, found in curves.items():
            found.append(_losses(name, space, known, seed, args.trials, base.calibration_tokens))
            print(f"seed {seed}, {name}: {min(found[-1]):.4f}, {len(known.losses)} points known", flush=True)
    return {
        "model": preflight.source.name,
        "keep": args.keep,
        "space": space.to_json(),
        "points": space.size,
        "points_run": len(known.losses),
        "seconds_per_point": known.seconds / max(1, len(known.losses)),
        "trials": args.trials,
        "seeds": args.seeds,
        "unit": "loss over dense, nats per token",
        "default": curves["random"][0][0],
        "least": min(known.losses.values()),
        "losses": curves,
    }


def _losses(
    name: str, space: TuningSpace, known: KnownPoints, seed: int, trials: int, tokens: int
) -> list[float]:
    """Returns the losses of a sampler's trials, in order."""
    losses: list[float] = []
    search = Search(
        optuna.create_study(),
        space,
        known,
        tokens,
        seed=seed,
        trials=trials,
        halving=False,
        tell=lambda record: losses.append(float("inf") if record.loss is None else record.loss),
    )
    search.run_default()
    samplers.get(name).search(search)
    return losses


def _base(args: argparse.Namespace) -> CompressOptions:
    """Returns the run that is tuned."""
    common: dict[str, Any] = {
        "model": args.model,
        "out": args.work / "work",
        "keep": args.keep,
        "bits": "16",
        "export": ("checkpoint",),
        "method": "fast",
        "calibration": args.text,
        "calibration_tokens": 4096,
    }
    if args.eval:
        return CompressOptions(**common, evaluation=args.eval)
    args.work.mkdir(parents=True, exist_ok=True)
    source = run_preflight(CompressOptions(**common), Progress(quiet=True)).source
    text = write_evaluation_text(source, args.work.absolute(), Progress())
    return CompressOptions(**common, evaluation=str(text))


def _machine() -> dict[str, Any]:
    return machine() | {"torch": torch.__version__, "threads": torch.get_num_threads()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune", description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", default="self")
    parser.add_argument("--eval")
    parser.add_argument("--keep", type=float, default=0.6)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--samplers", default="random,tpe,nomad")
    parser.add_argument("--work", type=Path, default=Path("build/tune"))
    parser.add_argument("--points", type=Path, default=Path("build/tune/points.json"))
    parser.add_argument("--out", type=Path, default=Path("build/bench/tune.json"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
