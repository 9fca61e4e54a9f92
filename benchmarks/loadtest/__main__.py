"""Is the load tester right? On servers of a known pace, and beside guidellm on a real one.

    make test-guidellm [BENCH='--rounds 9 --model dir']

guidellm lives in an environment of its own that make fetches from PyPI. The model, if none is given, is a
subnet of a random one of 90 M parameters: with a much quicker one, guidellm's processes take the server's
processors, and the two see different servers. Prints a table and writes build/bench/loadtest.json; exit
status 1 when ours is 5 % off a known pace, or guidellm 10 % off that or ours.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.serving.models import dense_model, subnet
from lathe.serving.loadtest.compare import run
from lathe.serving.loadtest.document import machine
from lathe.serving.loadtest.engine import LoadTester, find_load_tester
from lathe.serving.loadtest.load import Load
from lathe.serving.loadtest.prompts import PromptChoice
from lathe.serving.loadtest.servers import served
from lathe.serving.loadtest.testbed import Setup

MODEL_SHAPE = "90m"
PACES_MS = (5.0, 20.0, 50.0)
TTFT_MS = 100.0
OF_PACE, OF_EACH_OTHER = 0.05, 0.10
COMPARED = ("tpot_ms.p50", "ttft_ms.p50", "e2e_ms.p50", "output_tokens_per_second")


def main() -> int:
    args = _arguments()
    engines = {
        "ours": find_load_tester("lathe"),
        "guidellm": find_load_tester("guidellm", str(args.guidellm)),
    }
    rows: list[dict[str, Any]] = []
    for row in _rows(args, engines):
        rows.append(row)
        print(_told(row), flush=True)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        found = {"machine": machine(), "guidellm": engines["guidellm"].name, "rows": rows}
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    return int(not all(row["held"] for row in rows))


def _rows(args: argparse.Namespace, engines: dict[str, LoadTester]) -> Iterator[dict[str, Any]]:
    paced = Load(concurrency=4, requests=24, output_tokens=64)
    for pace in PACES_MS:
        command = (sys.executable, "-m", "benchmarks.loadtest.paced", str(TTFT_MS), str(pace))
        with served(Path(), command) as at:
            for name, engine in engines.items():
                read = _read(at.url, paced, engine)["tpot_ms.p50"]
                what = f"tpot_ms.p50, {name} on a pace of {pace:g} ms"
                yield _row(what, read, pace, OF_PACE if name == "ours" else OF_EACH_OTHER)
    load = Load(concurrency=args.users, requests=args.requests, output_tokens=64)
    model = args.model or subnet(dense_model(MODEL_SHAPE, args.work), 0.5, args.work)
    with served(model, extra=("--threads", "1")) as at:
        yield from _side_by_side(at.url, load, engines, args.rounds)


def _side_by_side(
    url: str, load: Load, engines: dict[str, LoadTester], rounds: int
) -> Iterator[dict[str, Any]]:
    """Yields medians of interleaved rounds, the order alternating."""
    read: dict[str, list[dict[str, float]]] = {name: [] for name in engines}
    for index in range(rounds):
        for name in sorted(engines, reverse=index % 2 == 1):
            read[name].append(_read(url, load, engines[name]))
    for path in COMPARED:
        values = {name: [one[path] for one in found] for name, found in read.items()}
        ours, theirs = (median(values[name]) for name in ("ours", "guidellm"))
        row = _row(f"{path}, ours and guidellm on a model", ours, theirs, OF_EACH_OTHER)
        yield {**row, "rounds": values}


def _row(what: str, read: float, expected: float, tolerance: float) -> dict[str, Any]:
    apart = read / expected - 1
    return {"what": what, "read": read, "expected": expected, "apart": apart, "held": abs(apart) <= tolerance}


def _read(url: str, load: Load, engine: LoadTester) -> dict[str, float]:
    """What one round of `engine` reads; a failed request ends the run."""
    system = run(url, load, setup=Setup(PromptChoice(64), engine=engine))["systems"]["server"]
    if system["failed"]:
        sys.exit(f"{engine.name}: {system['failed']} requests failed on {url}: {system['errors']}")
    found = {}
    for path in COMPARED:
        name, _, part = path.partition(".")
        found[path] = system[name][part] if part else system[name]
    return found


def _told(row: dict[str, Any]) -> str:
    return (
        f"{'held' if row['held'] else 'BROKEN':7}{row['what']:52}read {row['read']:9.2f}  "
        f"expected {row['expected']:9.2f}  {row['apart']:+.1%}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Our load tester against known paces and guidellm.")
    parser.add_argument("--guidellm", type=Path, default=Path(".venv-guidellm/bin/guidellm"))
    parser.add_argument("--model", type=Path)
    parser.add_argument("--work", type=Path, default=Path("build/bench/models"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--users", type=int, default=2)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--out", type=Path, default=Path("build/bench/loadtest.json"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
