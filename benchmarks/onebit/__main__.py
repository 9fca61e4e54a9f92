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
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.exit_status import exit_status
from benchmarks.kept_rows import run_variants
from benchmarks.onebit.table import table
from benchmarks.onebit.variants import VARIANTS
from benchmarks.quality.opened import open_setting
from benchmarks.quality.score import judges_of, score_rows
from lathe.artefact.errors import UserError
from lathe.compressor.pipeline.option_values import WINDOW

_SETTINGS = ("model", "text", "eval", "tokens", "windows", "seed")


def main() -> int:
    """Returns the exit status."""
    args = _arguments()
    return exit_status(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """Makes and scores the variants, and prints what was found.

    Raises:
        UserError: the model, a text or a variant will not do.
    """
    if unknown := set(args.variants.split(",")) - set(VARIANTS):
        raise UserError(f"there is no variant {', '.join(sorted(unknown))}", f"Known: {', '.join(VARIANTS)}.")
    print(table(run_variants(args, "benchmarks.onebit", _SETTINGS, args.variants.split(","), compare)))


def compare(args: argparse.Namespace, variants: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    """Yields the rows of every variant, one for each text."""
    setting, model, text = open_setting(args.model, args.text, args.tokens, args.seed)
    judges = judges_of(setting, args.eval, args.windows)
    for variant in variants:
        with setting.progress.stage(f"make: {variant}", 1), torch.inference_mode():
            made = VARIANTS[variant](model, text)
        facts = {
            "variant": variant,
            "nominal_bits": made.nominal,
            "effective_bits": made.effective,
        }
        yield score_rows(judges, setting.subnet(made.layers).hidden, facts)


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
