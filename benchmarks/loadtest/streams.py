"""Does our load tester read every form of stream as its server means it? By the server's own clock.

    python -m benchmarks.loadtest.streams [--out FILE]

TTFT and TPOT of the same answers have to be within 2 % of what the server's clock says: TPOT by their median,
TTFT by the quickest answer, as a busy machine only adds to it, more to one clock than to the other. A form
that does not tell the time of a token has to have no TPOT. Prints a line per form; exit status 1 when one is
off.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from benchmarks.loadtest.forms import FORMS, Form
from lathe.serving.loadtest.compare import run
from lathe.serving.loadtest.document import machine
from lathe.serving.loadtest.load import Load
from lathe.serving.loadtest.prompts import PromptChoice
from lathe.serving.loadtest.servers import served
from lathe.serving.loadtest.testbed import Setup

TTFT_MS, PACE_MS = 400.0, 20.0
WITHIN = 0.02
STATISTICS: dict[str, tuple[str, Callable[[Iterable[float]], float]]] = {
    "ttft": ("min", min),
    "tpot": ("p50", median),
}
TRIES = 3
"""Of a form: what a busy machine adds between the two clocks is no fault of either."""
USERS, ANSWERS, TOKENS = 3, 6, 48


def suite() -> dict[str, Any]:
    """All forms as one row of `make conformance`."""
    found = list(rows())
    off = {row["form"]: told(row) for row in found if not row["held"]}
    worst = {
        metric: max((abs(row.get(f"{metric}_apart") or 0.0) for row in found), default=0.0)
        for metric in ("ttft", "tpot")
    }
    return {
        "suite": "our load test, every form of stream",
        "result": f"{len(found) - len(off)} of {len(found)} forms; at most {worst['ttft']:.1%} (TTFT) and "
        f"{worst['tpot']:.1%} (TPOT) from the server's clock",
        "others": off,
        "held": not off,
        "rows": found,
    }


def rows() -> Iterator[dict[str, Any]]:
    command = (sys.executable, "-m", "benchmarks.loadtest.reference", str(TTFT_MS), str(PACE_MS))
    with served(Path(), command) as at:
        for name, form in FORMS.items():
            for number in range(1, TRIES + 1):
                row = _row(at.url, name, form) | {"tries": number}
                if row["held"]:
                    break
            yield row


def _row(url: str, name: str, form: Form) -> dict[str, Any]:
    endpoint: Any = "completions" if name == "completions" else "chat"
    load = Load(concurrency=USERS, requests=ANSWERS, warmup=USERS, output_tokens=TOKENS, endpoint=endpoint)
    system = run(url, load, setup=Setup(PromptChoice(8), model=name))["systems"]["server"]
    clock = httpx.get(f"{url}/clock/{name}").json()[-ANSWERS:]
    row: dict[str, Any] = {"form": name, "errors": system["errors"], "untimed": system["untimed"]}
    if form.error:
        return row | {"held": system["errors"] == {form.error: ANSWERS}}
    for metric in ("ttft", "tpot"):
        statistic, of_clock = STATISTICS[metric]
        read = (system[f"{metric}_ms"] or {}).get(statistic)
        meant = 1e3 * of_clock(answer[f"{metric}_s"] for answer in clock)
        apart = read / meant - 1 if read else None
        row |= {f"{metric}_ms": read, f"{metric}_ms_of_server": meant, f"{metric}_apart": apart}
    whole = system["succeeded"] == ANSWERS and system["output_tokens"] == ANSWERS * TOKENS
    timed = row["tpot_apart"] is not None and abs(row["tpot_apart"]) <= WITHIN
    silent = row["tpot_ms"] is None and system["untimed"] == ANSWERS
    return row | {"held": whole and abs(row["ttft_apart"]) <= WITHIN and (timed if form.timed else silent)}


def told(row: dict[str, Any]) -> str:
    parts = [f"{'held' if row['held'] else 'BROKEN':7}{row['form']:34}"]
    for metric in ("ttft", "tpot"):
        read = row.get(f"{metric}_ms")
        apart = "none" if read is None else f"{read:7.2f} ms {row[f'{metric}_apart']:+.2%}"
        parts.append(f"{metric.upper()} {apart:22}")
    return "".join(parts) + (str(row["errors"]) if row["errors"] else "")


def main() -> int:
    parser = argparse.ArgumentParser(description="Our load tester on every form of stream.")
    parser.add_argument("--out", type=Path, default=Path("build/bench/loadtest-streams.json"))
    args = parser.parse_args()
    found = []
    for row in rows():
        found.append(row)
        print(told(row), flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"machine": machine(), "within": WITHIN, "rows": found}, indent=1) + "\n")
    return int(not all(row["held"] for row in found))


if __name__ == "__main__":
    sys.exit(main())
