"""Our engines against onnxruntime-genai, OpenVINO GenAI, llama.cpp, vLLM and PyTorch, on the same weights.

    make bench-serving BENCH='--shape 400m --columns int4 --rounds 3'
    make bench-serving BENCH='--shape smollm2-135m/ --columns int8,int4'

A column is what stores weights alike (fp32, bf16, int8, int4). Its systems are loaded together, each in a
process of its own, and compute interleaved: prompts, then greedy steps. Before each turn memory is read, so
that every step has its bound. A system has to say what transformers says in float32; one that is not
installed, or fails, is reported. Then, of each column: where our step goes by operator, and what an uneven
subnet gains over dense where both are served.

Writes build/bench/serving.json after every turn of all systems, raw samples included, and prints tables.
With --work and --resume a run that was ended goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.latency.shapes import SHAPES
from benchmarks.serving.agreement import reference
from benchmarks.serving.bandwidth import Reader
from benchmarks.serving.contest import Setting, run_column
from benchmarks.serving.models import dense_model, plan_of, subnet
from benchmarks.serving.profile import by_operator
from benchmarks.serving.rival import COLUMNS, read_config, rivals
from benchmarks.serving.served import served
from benchmarks.serving.summary import summarize, table
from lathe.artefact.atomic_files import write_json
from lathe.artefact.onnx.graph_format import GRAPH
from lathe.serving.loadtest.document import machine

OURS, SUBNET = "lathe", "lathe subnet"
_CHECKED, _CHECKED_STEPS = 4, 16
"""Prompts, and tokens after each, that every system is checked on."""


def main() -> None:
    args = _arguments()
    document: dict[str, Any] = {"runs": {}}
    if args.out.is_file():
        document = json.loads(args.out.read_text())
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with _folder(args.work) as work:
        setting, reader = _setting(args, work), Reader(args.threads)
        model = Path(args.shape).name
        run = document["runs"].setdefault(model, {"columns": {}})
        conditions = _conditions(args, setting, reader)
        before = run["columns"] if args.resume and _same(run, conditions) else {}
        run |= conditions
        for name in args.columns.split(","):
            print(name, file=sys.stderr, flush=True)

            def save(column: dict[str, Any], name: str = name) -> None:
                run["columns"][name] = column
                write_json(args.out, document)

            column = run_column(name, setting, reader, before.get(name), save)
            column["summary"] = summarize(column, args.prompt)
            print("\n".join(table(f"{model}, {name}", column)), flush=True)
            save(column)
            if "operators" not in column:
                _ours(args, column, setting)
                save(column)


def _same(run: dict[str, Any], conditions: dict[str, Any]) -> bool:
    """Whether samples of an earlier run may stand beside new ones."""
    loose = ("command", "machine", "read_buffer_bytes")
    return all(run.get(name) == value for name, value in conditions.items() if name not in loose)


def _setting(args: argparse.Namespace, work: Path) -> Setting:
    dense = dense_model(args.shape, work)
    models = {"dense": dense, "subnet": subnet(dense, args.keep, work)}
    batches = [int(batch) for batch in args.batches.split(",")]
    vocabulary = read_config(dense)["vocab_size"]
    prompts = np.random.default_rng(0).integers(
        0, vocabulary, (max(*batches, _CHECKED), args.prompt), dtype=np.int64
    )
    checked = {name: reference(path, prompts[:_CHECKED], _CHECKED_STEPS) for name, path in models.items()}
    pythons = dict(pair.split("=", 1) for pair in args.python)
    return Setting(
        models,
        checked,
        prompts,
        batches,
        args.steps,
        args.rounds,
        args.threads,
        args.rivals.split(","),
        pythons,
        work,
    )


def _conditions(args: argparse.Namespace, setting: Setting, reader: Reader) -> dict[str, Any]:
    return {
        "command": shlex.join(["python", "-m", "benchmarks.serving", *sys.argv[1:]]),
        "machine": machine(),
        "threads": args.threads,
        "batches": args.batches,
        "rivals": args.rivals,
        "prompt_tokens": args.prompt,
        "decode_steps": args.steps,
        "read_buffer_bytes": reader.buffer_bytes,
        "subnet_plan": plan_of(setting.models["subnet"]).to_json(),
        "subnet_keep": args.keep,
    }


def _ours(args: argparse.Namespace, column: dict[str, Any], setting: Setting) -> None:
    """Our own step by operator, and the subnet as served; where ours could run."""
    systems = column["systems"]
    if "failed" in systems.get(OURS, {"failed": ""}):
        return
    graph = Path(systems[OURS]["path"]) / GRAPH
    batches = sorted({min(setting.batches), max(setting.batches)})
    column["operators"] = [by_operator(graph, setting.prompts[:b], args.threads) for b in batches]
    for found in column["operators"]:
        shares = (f"{name} {us:.0f}" for name, us in found["operators_us"].items())
        print(f"our step at batch {found['batch']}, {found['step_us']:.0f} us: {', '.join(shares)}")
    if args.served_rounds and "failed" not in systems[SUBNET]:
        column["served"] = served(
            systems[OURS],
            systems[SUBNET],
            batches,
            prompt=args.prompt,
            output=args.output,
            rounds=args.served_rounds,
            threads=args.threads,
        )
        for row in column["served"]:
            print(
                f"subnet as served, {row['in_flight']} in flight: {row['speedup']:.2f}x faster; "
                f"its bytes promise {row['promised']:.2f}x: {row['kept']:.2f} of that",
                flush=True,
            )


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    """Where models and rivals' files lie: kept if it was asked for."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="lathe-bench-") as folder:
        yield Path(folder)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="90m", help=f"of {', '.join(SHAPES)}, or a Llama's directory")
    parser.add_argument("--columns", default=",".join(COLUMNS))
    parser.add_argument("--rivals", default=",".join([OURS, *(n for n in rivals.known() if n != OURS)]))
    parser.add_argument("--batches", default="1,4,8")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a prompt")
    parser.add_argument("--steps", type=int, default=32, help="decode steps of a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of every system, and to read memory")
    parser.add_argument("--keep", type=float, default=0.5, help="share of the subnet")
    parser.add_argument("--served-rounds", type=int, default=4, help="pairs of load tests; 0: none")
    parser.add_argument("--output", type=int, default=64, help="tokens of an answer, as served")
    parser.add_argument(
        "--python", action="append", default=[], metavar="RIVAL=PATH", help="in place of its own environment"
    )
    parser.add_argument("--work", type=Path, help="keep models and rivals' files here, and use them again")
    parser.add_argument(
        "--resume", action="store_true", help="keep what --out has of a run with the same options"
    )
    parser.add_argument("--out", type=Path, default=Path("build/bench/serving.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
