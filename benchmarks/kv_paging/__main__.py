"""Memory and speed of paged slots beside an earlier build, and what reuse of prompts' beginnings is worth.

    make bench-kv-paging MODEL=dir BENCH='--base REVISION'

Both builds answer the same prompts of users who ask one after the other's answer, in processes of their own
that take turns of some seconds, so that other load hits both. After each turn the memory behind the
addresses of the caches is read from the system. Then this build reads prompts that begin with the same system
prompt, with and without a prefix cache, in turns; the first of them, which fills the cache, is not counted.
Writes JSON and prints a table.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import onnxruntime as ort

from benchmarks.source_tree import SourceTree, checkout, snapshot
from lathe.artefact.atomic_files import write_json
from lathe.artefact.errors import UserError
from lathe.artefact.onnx.graph_format import GRAPH
from lathe.compressor.export.base import Export
from lathe.compressor.export.onnx import export_onnx
from lathe.compressor.model.checkpoint import open_checkpoint
from lathe.serving.loadtest.document import machine

BEFORE, PAGED = "whole", "paged"
Row = dict[str, Any]


class Side:
    """One build at work; its first answer is `about`."""

    def __init__(self, tree: SourceTree, job: Row, cache: Path, stack: ExitStack) -> None:
        command = [sys.executable, str(Path(__file__).with_name("side.py")), json.dumps(job)]
        self._process = stack.enter_context(
            subprocess.Popen(
                command,
                env=tree.environment(cache),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(self._process.kill)
        self.about = self._answer()

    def ask(self, line: str) -> Row:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Row:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise UserError("a build that is compared has failed", "Its error is above.")
        answer: Row = json.loads(line)
        if answer.get("error"):
            raise UserError(f"a build that is compared has failed: {answer['error']}")
        return answer


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    args = _parser().parse_args(arguments)
    try:
        document = measure(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    document["command"] = shlex.join(["python", "-m", "benchmarks.kv_paging", *(arguments or sys.argv[1:])])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, document)
    print(table(document), f"written to {args.out}", sep="\n\n")
    return 0


def measure(args: argparse.Namespace) -> Row:
    """Returns the document.

    Raises:
        UserError: the model or the commit is missing, or a build fails.
    """
    source = open_checkpoint(args.model)
    work = args.work / source.name
    if not (work / GRAPH).is_file():
        export_onnx(work, Export.whole(source))
    job = {"graph": str((work / GRAPH).resolve()), "length": args.length, "threads": args.threads, "seed": 0}
    with tempfile.TemporaryDirectory() as folder:
        trees = {
            BEFORE: checkout(args.base, Path(folder) / BEFORE),
            PAGED: snapshot(Path(folder) / PAGED),
        }
        users = job | {
            "job": "users",
            **{name: getattr(args, name) for name in ("users", "requests", "tokens", "prompt_tokens")},
        }
        document = {
            "format": "lathe-bench-kv-paging/1",
            "machine": machine() | {"onnxruntime": ort.__version__, "threads": args.threads},
            "model": source.name,
            "commits": {name: tree.commit for name, tree in trees.items()},
            "users": users_in_turns(trees, users, args.turn, Path(folder)),
        }
        prefix = job | {"job": "prefix", "system_tokens": args.system_tokens}
        document["prefix"] = shared_prompts(trees[PAGED], prefix, args, Path(folder))
    return document | {"ratios": ratios(document)}


def users_in_turns(trees: dict[str, SourceTree], job: Row, seconds: float, folder: Path) -> Row:
    """Returns tokens, seconds and memory of each build, which work in turns until all is answered."""
    with ExitStack() as stack:
        sides = {name: Side(tree, job, folder, stack) for name, tree in trees.items()}
        turns: dict[str, list[Row]] = {name: [] for name in sides}
        while unfinished := [name for name in sides if not (turns[name] and turns[name][-1]["done"])]:
            for name in unfinished:
                turns[name].append(sides[name].ask(str(seconds)))
        about = {name: side.about for name, side in sides.items()}
    return {"job": job} | {name: about[name] | _summed(turns[name]) for name in trees}


def _summed(turns: list[Row]) -> Row:
    """Memory is that at the ends of turns in which something runs on."""
    tokens, seconds = (sum(turn[name] for turn in turns) for name in ("tokens", "seconds"))
    running = [turn for turn in turns if not turn["done"]] or turns
    return {
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "running": statistics.mean(turn["running"] for turn in running),
        "mean_resident_bytes": statistics.mean(turn["resident"] for turn in running),
        "peak_resident_bytes": max(turn["resident"] for turn in turns),
        "mean_bytes_in_use": statistics.mean(turn["in_use"] for turn in running),
        "turns": len(turns),
    }


def shared_prompts(tree: SourceTree, job: Row, args: argparse.Namespace, folder: Path) -> Row:
    """Returns the seconds to the first token, with and without reuse, by the tokens of the question."""
    with ExitStack() as stack:
        side = Side(tree, job, folder, stack)
        side.ask(str(args.question_tokens[0]))
        found = {
            str(count): [side.ask(str(count)) for _ in range(args.rounds)] for count in args.question_tokens
        }
        times = {count: _times(rows) for count, rows in found.items()}
        return {"job": job, **side.about, "questions": times}


def _times(rows: list[Row]) -> Row:
    return {
        "without_s": [row["without"][0] for row in rows],
        "with_s": [row["with"][0] for row in rows],
        "found_tokens": rows[0]["with"][1],
        "ratio": statistics.median(row["with"][0] / row["without"][0] for row in rows),
    }


def ratios(document: Row) -> Row:
    """Returns the paged build's figures by the earlier one's, and the times with reuse by those without."""
    before, paged = document["users"][BEFORE], document["users"][PAGED]
    names = ("mean_resident_bytes", "peak_resident_bytes", "tokens_per_second")
    times = {count: row["ratio"] for count, row in document["prefix"]["questions"].items()}
    return {name: paged[name] / before[name] for name in names} | {"time_to_first_token": times}


def table(document: Row) -> str:
    """Returns the results as Markdown."""
    lines = [
        "| KV cache | tokens/s | sequences | memory, mean | at most | in use |",
        "|---|---|---|---|---|---|",
    ]
    for name in (BEFORE, PAGED):
        row = document["users"][name]
        sizes = [
            row[key] / 2**20 for key in ("mean_resident_bytes", "peak_resident_bytes", "mean_bytes_in_use")
        ]
        cells = " | ".join(f"{size:,.0f} MiB" for size in sizes)
        lines.append(f"| {name} | {row['tokens_per_second']:.2f} | {row['running']:.1f} | {cells} |")
    found = document["ratios"]
    cells = f"{found['mean_resident_bytes']:.3f} | {found['peak_resident_bytes']:.3f}"
    lines += [f"| paged / whole | {found['tokens_per_second']:.3f} | | {cells} | |", ""]
    lines += ["| question | first token without, s | with reuse, s | ratio |", "|---|---|---|---|"]
    for count, row in document["prefix"]["questions"].items():
        both = " | ".join(f"{statistics.median(row[name]):.3f}" for name in ("without_s", "with_s"))
        lines.append(f"| {count} tokens | {both} | {row['ratio']:.3f} |")
    return "\n".join(lines)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kv_paging",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, help="a checkpoint directory")
    add("--base", default="0397868", help="the commit whose slots take all memory at the start")
    add("--threads", type=int, help="of ONNX Runtime; its own choice unless given")
    add("--length", type=int, default=2048, help="the most tokens of a slot")
    add("--users", type=int, default=32, help="who ask at the same time, and slots")
    add("--requests", type=int, default=40, help="of all users together")
    add("--prompt-tokens", type=_numbers, default=[50, 900], help="fewest and most")
    add("--tokens", type=int, default=192, help="of each answer")
    add("--turn", type=float, default=4.0, help="seconds for which a build works at a time")
    add("--system-tokens", type=int, default=1000, help="that prompts begin with")
    add("--question-tokens", type=_numbers, default=[10, 100], help="that follow them")
    add("--rounds", type=int, default=5, help="prompts of each length, with and without reuse")
    add("--work", type=Path, default=Path("build/bench/kv-paging"), help="where the graph is kept")
    add("--out", type=Path, default=Path("build/bench/kv-paging.json"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
