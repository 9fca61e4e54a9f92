"""At equal weight bytes: rounding the dense model, or cutting it, or both?

    make bench-equal-bytes MODEL=path TEXT=calibration.txt EVAL=heldout.txt

Budgets: what the dense decoder takes as int8 and as int4, and 1.5 and 0.75 times the latter. In each: the
dense model with as many bits as fit (round-to-nearest), and subnets of `compress --keep`, stored as float16,
int8 and int4, at the keep that makes their bytes equal. Bytes are of the decoder layers, with scales
and norms; embeddings and head are the same for all. Values are computed in float32 from the rounded
weights. Writes JSON (build/bench/equal-bytes.json) after every row and prints a table.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality.formats import FLOAT16, INT4, INT8, Format, widest
from benchmarks.quality.product import Product, options_for
from benchmarks.quality.score import Judge, machine, windows_of
from benchmarks.quality.setting import Setting
from lathe.artefact.atomic_files import write_json
from lathe.compressor.compute.progress import Progress
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.pipeline.option_values import WINDOW


@dataclass(frozen=True)
class Contender:
    """Layers of a budget. keep: share of parameters asked for, 1 for the dense model."""

    name: str
    format: Format
    keep: float
    layers: list[Weights]
    size: int


def budgets(setting: Setting) -> dict[str, float]:
    """Bytes by name, largest first."""
    int8, int4 = (form.store(setting.layers)[1] for form in (INT8, INT4))
    return {
        "int8 dense": int8,
        "1.5 x int4 dense": 1.5 * int4,
        "int4 dense": int4,
        "0.75 x int4 dense": 0.75 * int4,
    }


def contenders(
    product: Product, setting: Setting, budget: float, evaluations: int | None
) -> Iterator[Contender]:
    """Dense first, then subnets of fewer and fewer bits; those that the budget would not cut are left out."""
    if whole := widest(setting.layers, budget):
        form, layers, size = whole
        yield Contender("dense", form, 1.0, layers, size)
    for form in (FLOAT16, INT8, INT4):
        keep = budget / form.store(setting.layers)[1]
        while keep < 1:
            choice = product.search("lathe", keep, evaluations)
            size = form.store([setting.prune(i, s) for i, s in enumerate(choice.iteration.selections)])[1]
            if size <= budget:
                layers, size = form.store(product.finish(choice))
                yield Contender("subnet", form, keep, layers, size)
                break
            keep *= 0.999 * budget / size


def compare(product: Product, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row per budget, contender and text."""
    setting = product.setting()
    judges = {name: Judge(setting, windows_of(setting, name, args.windows)) for name in args.eval.split(",")}
    whole = FLOAT16.store(setting.layers)[1]
    for name, budget in budgets(setting).items():
        for found in contenders(product, setting, budget, args.evaluations):
            subnet = setting.subnet(found.layers)
            for text, judge in judges.items():
                scores = judge.score(subnet.hidden)
                yield {
                    "budget": name,
                    "budget_bytes": int(budget),
                    "share_of_float16": budget / whole,
                    "contender": f"{found.name} {found.format}",
                    "keep": found.keep,
                    "parameters": subnet.parameters,
                    "weight_bytes": found.size,
                    "text": Path(text).name,
                    "increase": scores.loss - judge.dense_loss,
                    **asdict(scores),
                    "dense_loss": judge.dense_loss,
                }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, the best of each budget first; loss increase over dense in nats per token."""
    lines = ["| text | budget | bytes of float16 | contender | keep | loss increase | top token agrees |"]
    lines.append("|---" * 7 + "|")
    for row in sorted(rows, key=lambda r: (r["text"], -r["budget_bytes"], r["increase"])):
        lines.append(
            f"| {row['text']} | {row['budget']} | {row['share_of_float16']:.1%} | {row['contender']} "
            f"| {row['keep']:.1%} | {row['increase']:.4f} | {row['agreement']:.1%} |"
        )
    return "\n".join(lines)


def main() -> None:
    args = _arguments()
    product = Product.open(
        options_for(args.model, args.text, args.tokens, args.seed, args.out.parent / "work"), Progress()
    )
    document = {
        "command": shlex.join(["python", "-m", "benchmarks.quality.equal_bytes", *sys.argv[1:]]),
        **{name: getattr(args, name) for name in ("model", "text", "eval", "tokens", "windows", "seed")},
        "unit": "nats per token",
        "machine": machine(),
    }
    rows: list[dict[str, Any]] = []
    for row in compare(product, args):
        rows.append(row)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.out, document | {"rows": rows})
    product.context.run_dir.close()
    print(table(rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a checkpoint directory")
    parser.add_argument("--text", default="self", help="calibration text: file, folder, data set or `self`")
    parser.add_argument("--eval", required=True, help="text to score on: files with commas, or `self`")
    parser.add_argument("--tokens", type=int, default=65_536, help="calibration tokens")
    parser.add_argument(
        "--windows", type=int, default=128, help=f"evaluation windows of {WINDOW} tokens per text"
    )
    parser.add_argument("--evaluations", type=int, help="candidates per subnet; default: the method's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/bench/equal-bytes.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
