"""What a subnet gains on vLLM, what our class costs there, and what a subnet is worth as a draft.

    make bench-vllm BENCH='--shape 90m --keep 0.5'

Real servers (`lathe serve --engine vllm`), both up at a time, under interleaved load (but for `class`):
1. *subnet*: dense against an uneven subnet, random weights;
2. *class*: vLLM's own Llama against our class with all widths kept, in its engine: the ratio should be 1;
3. *draft*: a trained model alone against itself with its own subnet as the draft; answers must not change;
4. *bound*: the same with a random model whose last layers add nothing and a draft without them, which is
   never wrong: the most that drafting can gain.

Writes build/bench/vllm.json after every part and prints ratios, second to first.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.vllm.duel import Duel
from benchmarks.vllm.models import control, idle_layers, random_model, trained_subnet, uneven_subnet
from lathe.artefact.atomic_files import write_json
from lathe.compressor.compute.progress import Progress
from lathe.compressor.latency.backend import backends
from lathe.compressor.latency.effort import PROOF
from lathe.compressor.latency.measure import LatencyBenchmark
from lathe.compressor.latency.workload import Workload
from lathe.compressor.model.checkpoint import open_config
from lathe.serving.loadtest.document import machine
from lathe.serving.loadtest.load import Load

Part = dict[str, Any]


def main() -> None:
    args = _arguments()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    command = shlex.join(["python", "-m", "benchmarks.vllm", *sys.argv[1:]])
    document: Part = {"command": command, "machine": machine(), "parts": {}}
    if args.out.is_file():
        document["parts"] = json.loads(args.out.read_text())["parts"]
    parts: dict[str, Callable[[argparse.Namespace, Path], Part]] = {
        "subnet": _subnet,
        "class": _class,
        "draft": _draft,
        "bound": _bound,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lathe-bench-") as work:
        for name in args.parts.split(","):
            document["parts"][name] = parts[name](args, Path(work))
            write_json(args.out, document)
            _show(name, document["parts"][name])


def _subnet(args: argparse.Namespace, work: Path) -> Part:
    dense = random_model(args.shape, work)
    small = uneven_subnet(dense, args.keep, work)
    with Duel((dense, _flags(args)), (small, _flags(args))) as duel:
        races = [duel.race(*_load(args, concurrency)) for concurrency in (1, 8)]
        first, second = duel.sizes()
    gains = {name: second[name] / first[name] for name in first}
    return {
        "model": args.shape,
        "keep": args.keep,
        "races": races,
        "sizes": [first, second],
        "size_ratios": gains,
    }


def _class(args: argparse.Namespace, work: Path) -> Part:
    """Steps of vLLM's engine, not answers of a server: a per cent is looked for."""
    dense = random_model(args.shape, work)
    ours, rows = control(dense, work), []
    for workload in (Workload("tpot", 8, 256), Workload("ttft", 1, 256)):
        benchmark = LatencyBenchmark(
            open_config(str(dense)), backends.get("vllm"), workload, args.threads, Progress()
        )
        timing = benchmark.compare_built(dense, ours, PROOF, "our class against vLLM's")
        rows.append(
            {
                "metric": workload.metric,
                "batch_size": workload.batch_size,
                "context": workload.context,
                "vllm_ms": timing.dense.median,
                "ours_ms": timing.subnet.median,
                "ratio": timing.ratio,
                "turns_ms": {"vllm": timing.dense.repeats, "ours": timing.subnet.repeats},
            }
        )
    return {"model": args.shape, "races": [], "engine": rows}


def _draft(args: argparse.Namespace, work: Path) -> Part:
    dense = Path(args.model)
    small = trained_subnet(dense, args.draft_keep, work, args.draft_calibration)
    return {"model": dense.name, "keep": args.draft_keep} | _drafted(args, dense, small, "float32")


def _bound(args: argparse.Namespace, work: Path) -> Part:
    dense, small = idle_layers(args.bound_shape, args.bound_share, work)
    found = _drafted(args, dense, small, "bfloat16")
    return {"model": args.bound_shape, "share_of_layers": args.bound_share} | found


def _drafted(args: argparse.Namespace, dense: Path, small: Path, dtype: str) -> Part:
    """A model alone against itself with a draft. acceptance: share of the drafts that it kept."""
    flags = _flags(args, dtype)
    draft = ["--draft", str(small), "--draft-tokens", str(args.draft_tokens)]
    with Duel((dense, flags), (dense, [*draft, *flags])) as duel:
        alone, helped = duel.answers()
        counted = duel.counters(1, "vllm:spec_decode")
        races = [duel.race(*_load(args, 1))]
    drafted = counted["vllm:spec_decode_num_draft_tokens_total"]
    accepted = counted["vllm:spec_decode_num_accepted_tokens_total"]
    return {
        "draft_tokens": args.draft_tokens,
        "answers_unchanged": alone == helped,
        "acceptance": accepted / drafted,
        "tokens_a_step": 1 + accepted / counted["vllm:spec_decode_num_drafts_total"],
        "races": races,
    }


def _flags(args: argparse.Namespace, dtype: str = "bfloat16") -> list[str]:
    compiled = [] if args.compiled else ["--enforce-eager"]
    threads = ["--threads", str(args.threads)] if args.threads else []
    return [*threads, "--max-length", "512", "--max-batch", "8", "--", "--dtype", dtype, *compiled]


def _load(args: argparse.Namespace, concurrency: int) -> tuple[Load, int, int]:
    requests = args.requests * concurrency
    load = Load(concurrency=concurrency, requests=requests, output_tokens=args.output_tokens, timeout_s=600.0)
    return load, args.prompt_tokens, args.rounds


def _show(name: str, part: Part) -> None:
    for race in part["races"]:
        spreads = (
            f"{k} {v['median']:.3f} ({v['min']:.3f} to {v['max']:.3f})" for k, v in race["ratios"].items()
        )
        print(f"{name}, {part['model']}, {race['concurrency']} at a time: " + "; ".join(spreads))
    rest = {k: v for k, v in part.items() if k not in ("races", "sizes", "engine")}
    for row in part.get("engine", []):
        print(
            f"{name}, {part['model']}, {row['metric']}, batch {row['batch_size']}: ratio {row['ratio']:.4f}"
        )
    print(f"{name}: {json.dumps(rest)}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default="subnet,class,draft,bound")
    parser.add_argument("--shape", default="90m", help="of benchmarks/latency/shapes.py")
    parser.add_argument("--keep", type=float, default=0.5, help="share of the subnet, in `subnet`")
    parser.add_argument("--model", default="demo/model", help="trained, for `draft`")
    parser.add_argument("--draft-keep", default="50%")
    parser.add_argument("--draft-tokens", type=int, default=3)
    parser.add_argument(
        "--draft-calibration", type=int, default=16_384, help="calibration tokens of the draft"
    )
    parser.add_argument("--bound-shape", default="400m", help="of the model in `bound`")
    parser.add_argument("--bound-share", type=float, default=0.25, help="of its layers that the draft has")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--requests", type=int, default=2, help="a round, for each that is in flight")
    parser.add_argument("--threads", type=int, help="of each engine [default: all cores]")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument(
        "--compiled", action="store_true", help="torch.compile: a minute more for each server"
    )
    parser.add_argument("--out", type=Path, default=Path("build/bench/vllm.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
