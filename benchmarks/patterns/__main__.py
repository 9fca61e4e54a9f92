"""N:M patterns on a real model: what do ways to choose and correct the weights lose?

    make bench-patterns MODEL=dir TEXT=calibration EVAL=heldout,other BENCH='--windows 16'

Magnitude, Wanda, SparseGPT and multiple removal as published, all on what the pruned model reads; Lathe's
joint removal; that with all kept weights refined on KL(dense || pruned); and that rounded to 8 bits with its
zeros kept. Embedding and head stay as they are. Writes JSON (build/bench/patterns.json) after every variant
and prints a table for each text. Variants that the JSON has are not made again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.exit_status import exit_status
from benchmarks.kept_rows import run_variants
from benchmarks.patterns.table import table
from benchmarks.patterns.variants import VARIANTS, Maker, zeros_of
from benchmarks.quality.opened import open_setting
from benchmarks.quality.score import judges_of, score_rows
from lathe.artefact.errors import UserError
from lathe.artefact.plan import BLOCK_KINDS
from lathe.compressor.model.pattern import Pattern
from lathe.compressor.pipeline.option_values import WINDOW

_SETTINGS = ("model", "text", "eval", "pattern", "tokens", "windows", "seed")


def main() -> int:
    """Returns the exit status."""
    args = _arguments()
    return exit_status(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """Makes and scores the variants, and prints what was found.

    Raises:
        UserError: the model, a text, the pattern or a variant will not do.
    """
    asked = args.variants.split("/")
    if unknown := set(asked) - set(VARIANTS):
        raise UserError(f"there is no variant {', '.join(sorted(unknown))}", f"Known: {'/'.join(VARIANTS)}.")
    print(table(run_variants(args, "benchmarks.patterns", _SETTINGS, asked, compare)))


def compare(args: argparse.Namespace, variants: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    """Yields the rows of every variant, one for each text."""
    pattern = Pattern.parse(args.pattern)
    setting, model, text = open_setting(args.model, args.text, args.tokens, args.seed)
    pattern.check(setting.shape, setting.shape.dense_plan, setting.source.name)
    judges = judges_of(setting, args.eval, args.windows)
    names = {name for kind in BLOCK_KINDS for name in model.runner.projections(kind)}
    make = Maker(model, text, pattern)
    for variant in variants:
        began = time.monotonic()
        with setting.progress.stage(f"make: {variant}", 1):
            layers = make(variant)
        facts = {
            "variant": variant,
            "zeros": zeros_of(layers, names),
            "seconds": round(time.monotonic() - began, 1),
        }
        yield score_rows(judges, setting.subnet(layers).hidden, facts)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.patterns",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, help="a checkpoint's directory")
    add("--text", required=True, help="to calibrate on: files or folders, or `self`, which the model writes")
    add("--eval", required=True, help="to score on: files, with commas")
    add("--pattern", default="2:4", help="N:M [%(default)s]")
    add("--variants", default="/".join(VARIANTS), help="with slashes [all: %(default)s]")
    add("--tokens", type=int, default=16_384, help="of the calibration text [%(default)s]")
    add("--windows", type=int, default=16, help=f"of {WINDOW} tokens of every text [%(default)s]")
    add("--seed", type=int, default=0, help="[%(default)s]")
    add("--out", type=Path, default=Path("build/bench/patterns.json"), help="the document [%(default)s]")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
