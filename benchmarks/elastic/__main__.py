"""A family of nested subnets: what it takes on disk and in memory, and what sharing costs in loss and time.

    make bench-elastic FAMILY=out BENCH='--own own/1.5x own/2x'

Bytes on disk count each inode once. Memory is that of a process with all subnets, opened as `lathe serve`
opens them, beside one with the widest alone, and one with all that shares nothing. `--serve` measures
whole servers, too: one with all subnets, and one with the widest alone. `--own` are artefacts of
runs of their own with the plans of the family (`--plan FAMILY/plans/NAME/plan.json`, with the same text and
bits), in directories called as these plans: their loss is what sharing is compared with.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from benchmarks.elastic.servers import memory_of_servers
from benchmarks.exit_status import exit_status
from lathe.artefact.atomic_files import write_json
from lathe.artefact.family import FAMILY, Family, read_family
from lathe.artefact.fingerprint import fingerprint
from lathe.artefact.linked_files import bytes_once
from lathe.artefact.manifest import read_json
from lathe.artefact.onnx.graph_format import GRAPH
from lathe.artefact.onnx.weight_sharing import weight_sharing


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status."""
    args = _arguments(argv)
    return exit_status(lambda: compare(args))


def compare(args: argparse.Namespace) -> None:
    """Measures, writes and prints.

    Raises:
        UserError: the directory is no family, or it cannot be served.
    """
    family = read_family(args.family)
    document: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.elastic", *sys.argv[1:]]),
        "machine": fingerprint({"onnxruntime": ort.__version__}, args.threads),
        "disk_bytes": disk(family),
        "memory": memory(family, args),
        "servers": memory_of_servers(family) if args.serve else None,
        "loss_increase": losses(family, args.own),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, document)
    printed = ("disk_bytes", "memory", "servers", "loss_increase")
    print(json.dumps({name: document[name] for name in printed}, indent=2))


def disk(family: Family) -> dict[str, Any]:
    """Returns the bytes of all subnets together and apart: of whole artefacts, and of graphs' weights."""
    places = [family.directory(plan) for plan in family.plans]
    sharing, whole = weight_sharing({plan.name: family.directory(plan) / GRAPH for plan in family.plans})
    apart = sum(found.own + found.shared for found in sharing.values())
    known = read_json(family.path / FAMILY)["bytes"]
    return {
        "artefacts": _ratio(bytes_once(places), known["apart"]),
        "graphs": _ratio(whole, apart),
        "of_each_graph": {
            name: {"own": found.own, "shared": found.shared} for name, found in sharing.items()
        },
    }


def _ratio(together: float, apart: float) -> dict[str, float]:
    return {"together": together, "apart": apart, "ratio": together / apart}


def memory(family: Family, args: argparse.Namespace) -> dict[str, Any]:
    """Returns memory and steps of one subnet alone, of all together, and of all one by one."""
    graphs = [family.directory(plan) / GRAPH for plan in family.plans]
    names = [plan.name for plan in family.plans]
    alone = {name: _process("one-by-one", [graph], args) for name, graph in zip(names, graphs, strict=True)}
    together, apart = (_process(how, graphs, args) for how in ("together", "one-by-one"))
    widest = alone[names[0]]["pss_bytes"]
    return {
        "alone": alone,
        "together": together,
        "one_by_one": apart,
        "together_over_widest": together["pss_bytes"] / widest,
        "one_by_one_over_widest": apart["pss_bytes"] / widest,
        "step_together_over_one_by_one": [
            a / b for a, b in zip(together["step_ms"], apart["step_ms"], strict=True)
        ],
    }


def _process(how: str, graphs: Sequence[Path], args: argparse.Namespace) -> dict[str, Any]:
    numbers = map(str, (args.threads, args.context, args.steps))
    command = [sys.executable, "-m", "benchmarks.elastic.process", how, *numbers, *map(str, graphs)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def losses(family: Family, own: Sequence[Path]) -> dict[str, dict[str, float | None]]:
    """Returns what each subnet loses over dense, in nats per token, beside one of a run of its own."""
    found: dict[str, dict[str, float | None]] = {}
    runs = {path.name: _loss_increase(path) for path in own}
    for plan in family.plans:
        alone = runs.get(plan.name)
        ratio = plan.loss_increase / alone if plan.loss_increase is not None and alone else None
        found[plan.name] = {"family": plan.loss_increase, "own": alone, "ratio": ratio}
    return found


def _loss_increase(artefact: Path) -> float:
    report = read_json(artefact / "report.json")
    loss = report.get("quantization", report)["loss"]
    return float(loss["subnet"]) - float(loss["dense"])


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.elastic", description=__doc__)
    parser.add_argument("family", type=Path)
    parser.add_argument("--own", type=Path, nargs="*", default=[])
    parser.add_argument("--serve", action="store_true", help="measure the memory of servers, too")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("build/bench/elastic.json"))
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
