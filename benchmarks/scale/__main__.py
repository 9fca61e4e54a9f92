"""What a compression takes as models grow: seconds and peak resident memory of every stage.

    make bench-scale BENCH='--sizes 0.1b,0.5b,1b,3b'

Llamas of random weights, compressed on disk under the smallest limit that the forecast allows: calibrate,
order, search, reform and export a checkpoint, in a process of its own. With --device there is no limit: what
is kept on disk follows from the device's memory. The text is made up: neither time nor memory depends on it.
Writes build/bench/scale.json after every model and prints a table; models that the file has are not run
again.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.scale.models import SHAPES, config_of, write_random
from lathe.artefact.atomic_files import write_json
from lathe.compressor.model.checkpoint import open_checkpoint
from lathe.compressor.pipeline.memory_estimate import memory_plan
from lathe.compressor.pipeline.options import CompressOptions
from lathe.serving.loadtest.document import machine

LETTERS = "abcdefghijklmnopqrstuvwxyz"
RUN = "from lathe.cli import compress; compress()"


def main() -> None:
    args = _arguments()
    document: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.scale", *sys.argv[1:]]),
        "machine": machine(),
        "rows": [],
    }
    if args.out.is_file():
        document["rows"] = json.loads(args.out.read_text())["rows"]
    for size in args.sizes.split(","):
        if not any(_known(row) == (size, args.method, args.layers, args.device) for row in document["rows"]):
            document["rows"].append(_row(size, args))
            args.out.parent.mkdir(parents=True, exist_ok=True)
            write_json(args.out, document)
    _print(document["rows"])


def _known(row: dict[str, Any]) -> tuple[str, str, int, str]:
    """What tells rows apart."""
    return row["size"], row["method"], row["layers_asked"], row.get("device", {"name": "cpu"})["name"]


def _row(size: str, args: argparse.Namespace) -> dict[str, Any]:
    work = args.work / size
    model, text, out = work / "model", work / "text.txt", work / "out"
    if not (model / "config.json").is_file():
        model.mkdir(parents=True, exist_ok=True)
        layers = {"num_hidden_layers": args.layers} if args.layers else {}
        write_random(model, config_of(size) | layers)
    drawn = random.Random(0)
    text.write_text(" ".join("".join(drawn.choices(LETTERS, k=5)) for _ in range(4 * args.tokens)))
    source = open_checkpoint(str(model))
    options = CompressOptions(
        model=str(model),
        out=out,
        keep=0.8,
        export=("checkpoint",),
        calibration=str(text),
        calibration_tokens=args.tokens,
        memory_limit=2**60,
        method=args.method,
    )
    on_gpu = args.device != "cpu"
    limit = None if on_gpu else max(memory_plan(options, source).stages.values())
    command = [
        sys.executable,
        "-c",
        RUN,
        str(model),
        "--keep",
        "80%",
        "--export",
        "checkpoint",
        "--calibration",
        str(text),
        "--calibration-tokens",
        str(args.tokens),
        "-o",
        str(out),
        "--overwrite",
        "--json",
        "--method",
        args.method,
        *(["--device", args.device] if on_gpu else ["--memory-limit", f"{limit}b"]),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    report = json.loads(done.stdout)
    if not args.keep_models:
        shutil.rmtree(work)
    shape = source.shape
    return {
        "size": size,
        "method": args.method,
        "layers_asked": args.layers,
        "parameters": shape.parameters(shape.dense_plan),
        "float32_bytes": shape.weight_bytes(shape.dense_plan, 4),
        "layer_bytes": 4 * shape.decoder_parameters([shape.layer]),
        "square_bytes": 8 * shape.layer.ffn**2,
        "layers": shape.num_layers,
        "tokens": args.tokens,
        "limit_bytes": limit,
        "peak_bytes": report["peak_memory_bytes"],
        "seconds": report["seconds"],
        "stage_peak_bytes": report["stage_peak_memory_bytes"],
        "memory": report["memory"],
        "device": report["device"],
    }


def _print(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        there = row["device"]["stage_peak_memory_bytes"]
        limit = f"limit {row['limit_bytes'] / 2**30:.2f} GiB, " if row["limit_bytes"] else ""
        print(
            f"{row['size']}, {row['method']}, {row['device']['name']}: {row['layers']} layers, "
            f"{row['parameters'] / 1e9:.2f} B parameters ({row['float32_bytes'] / 2**30:.2f} GiB in float32)"
            f", {limit}peak {row['peak_bytes'] / 2**30:.2f} GiB, {sum(row['seconds'].values()):.0f} s"
        )
        for stage, seconds in row["seconds"].items():
            on_device = f"{there[stage] / 2**20:9.0f} MiB of the device" if there else ""
            print(f"  {stage:48}{seconds:8.1f} s{row['stage_peak_bytes'][stage] / 2**20:9.0f} MiB{on_device}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="0.1b,0.5b,1b", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--tokens", type=int, default=4096, help="calibration tokens")
    parser.add_argument(
        "--layers", type=int, default=0, help="of them only: memory is the same, time is by layer [all]"
    )
    parser.add_argument("--method", default="lathe", help="of compress")
    parser.add_argument("--device", default="cpu", help="of compress")
    parser.add_argument("--work", type=Path, default=Path("build/scale"), help="where models and runs lie")
    parser.add_argument("--keep-models", action="store_true", help="do not remove them")
    parser.add_argument("--out", type=Path, default=Path("build/bench/scale.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
