"""One-bit weights on a real model: what do they lose, at how many bits that are really stored?

    make bench-onebit MODEL=dir TEXT=calibration EVAL=heldout,other BENCH='--windows 8'

BiLLM, ARB-LLM and HBLLM, as papers call one bit, beside rounding to nearest with one bit, and compensated
rounding (GPTQ) to 2 and 3 bits, of which some are stored in fewer bits than "one". Nominal bits are signs or
codes alone; effective ones are all that has to be stored: masks, and scales and means of 16 bits, too.
Embedding and head stay as they are. Writes JSON (build/bench/onebit.json) after every variant and prints a
table for each text. Variants that the JSON has are not made again.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.kept_rows import kept_rows
from benchmarks.onebit.table import table
from benchmarks.onebit.variants import VARIANTS
from benchmarks.quality.opened import open_setting
from benchmarks.quality.score import Judge, machine, windows_of
from lathe.artefact.atomic_files import write_json
from lathe.artefact.errors import UserError
from lathe.compressor.evaluate import Quality
from lathe.compressor.pipeline.options import WINDOW

_SETTINGS = ("model", "text", "eval", "tokens", "windows", "seed")


def main() -> int:
    """Returns the exit status."""
    args = _arguments()
    try:
        run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run(args: argparse.Namespace) -> None:
    """Makes and scores the variants, and prints what was found.

    Raises:
        UserError: the model, a text or a variant will not do.
    """
    if unknown := set(args.variants.split(",")) - set(VARIANTS):
        raise UserError(f"there is no variant {', '.join(sorted(unknown))}", f"Known: {', '.join(VARIANTS)}.")
    settings = {name: getattr(args, name) for name in _SETTINGS}
    rows = kept_rows(args.out, settings)
    pending = [name for name in args.variants.split(",") if name not in {row["variant"] for row in rows}]
    document = {
        "command": shlex.join(["python", "-m", "benchmarks.onebit", *sys.argv[1:]]),
        **settings,
        "unit": "nats per token",
        "machine": machine(),
    }
    for found in compare(args, pending) if pending else ():
        rows += found
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.out, document | {"rows": rows})
    print(table(rows))


def compare(args: argparse.Namespace, variants: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    """Yields the rows of every variant, one for each text."""
    setting, model, text = open_setting(args.model, args.text, args.tokens, args.seed)
    judges = {name: Judge(setting, windows_of(setting, name, args.windows)) for name in args.eval.split(",")}
    for variant in variants:
        with setting.progress.stage(f"make: {variant}", 1), torch.inference_mode():
            made = VARIANTS[variant](model, text)
        subnet = setting.subnet(made.layers)
        rows = []
        for name, judge in judges.items():
            scores = judge.score(subnet.hidden)
            rows.append(
                {
                    "variant": variant,
                    "nominal_bits": made.nominal,
                    "effective_bits": made.effective,
                    "text": Path(name).name,
                    "perplexity": Quality(scores.loss, 1).perplexity,
                    "increase": scores.loss - judge.dense_loss,
                    **asdict(scores),
                    "dense_loss": judge.dense_loss,
                }
            )
        yield rows


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.onebit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, help="a checkpoint's directory")
    add("--text", required=True, help="to calibrate on: files or folders, or `self`, which the model writes")
    add("--eval", required=True, help="to score on: files, with commas")
    add("--variants", default=",".join(VARIANTS), help="with commas [all: %(default)s]")
    add("--tokens", type=int, default=16_384, help="of the calibration text [%(default)s]")
    add("--windows", type=int, default=8, help=f"of {WINDOW} tokens of every text [%(default)s]")
    add("--seed", type=int, default=0, help="[%(default)s]")
    add("--out", type=Path, default=Path("build/bench/onebit.json"), help="the document [%(default)s]")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
