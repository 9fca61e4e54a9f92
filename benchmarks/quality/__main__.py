"""Methods side by side: what each loses against dense on held-out text, at several shares of parameters.

    make bench-quality MODEL=path TEXT=calibration.txt EVAL=heldout.txt

Every method sees the same model, calibration windows, parameter budget and evaluation code. Writes JSON
(build/bench/quality.json), a row per method, keep, seed and text, after every subnet, and prints a table.
With `--tasks`, lm-eval's zero-shot tasks are run on every subnet, too.
Rows that the file already has are not made again: a killed run goes on, another method is added.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.quality import variants  # noqa: F401  registers variants of the default method
from benchmarks.quality.contest import Contest
from benchmarks.quality.setting import baselines
from benchmarks.quality.table import OURS, table
from lathe.artefact.errors import UserError
from lathe.compressor.pipeline.option_values import WINDOW


def main() -> None:
    args = _arguments()
    try:
        contest = Contest(args)
        for seed in range(args.seeds):
            contest.run(seed)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(table(contest.rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = [OURS, *baselines.known()]
    parser.add_argument("--model", required=True, help="a checkpoint directory")
    parser.add_argument("--text", default="self", help="calibration text: file, folder, data set or `self`")
    parser.add_argument("--eval", required=True, help="text to score on: files with commas, or `self`")
    parser.add_argument("--keeps", default="90%,80%,70%,60%,50%")
    parser.add_argument(
        "--methods",
        default=",".join(known),
        help="of `compress --method`, the baselines and the ablations in variants.py [default: %(default)s]",
    )
    parser.add_argument("--seeds", type=int, default=1, help="how many; each takes other calibration text")
    parser.add_argument("--tokens", type=int, default=65_536, help="calibration tokens")
    parser.add_argument(
        "--evaluations", default="", help="candidates, as method=number,...; default: each method's own"
    )
    parser.add_argument(
        "--windows", type=int, default=128, help=f"evaluation windows of {WINDOW} tokens per text"
    )
    parser.add_argument("--tasks", default="", help="lm-eval's tasks, with commas; each subnet runs them")
    parser.add_argument("--task-path", type=Path, help="a directory with tasks of your own")
    parser.add_argument("--limit", type=int, help="items of each task [default: all]")
    parser.add_argument("--out", type=Path, default=Path("build/bench/quality.json"))
    args = parser.parse_args()
    if (args.task_path or args.limit) and not args.tasks:
        parser.error("--task-path and --limit alone run nothing: give --tasks")
    return args


if __name__ == "__main__":
    main()
