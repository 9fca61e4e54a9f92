"""Search engines side by side: which plan has least loss, after how long a search?

    make bench-search MODEL=dir TEXT=calibration EVAL=heldout,other BENCH='--budgets 1.5x'

All engines search the same space of widths under the same milliseconds, those of one latency table that is
measured here or read with --profile. What they find is reconstructed alike, as `compress --method fast` does,
and scored before and after that on the same windows of each text. The table of sensitivities that several
engines read is made once, and its seconds are told apart. Tokens of backward passes are counted apart from
all that run forward, and those that the table takes are not. Writes JSON (build/bench/search.json) after
every plan, with a plot for each text beside it, and prints tables. Plans that the JSON has are not made
again, so that a killed run goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.exit_status import exit_status
from benchmarks.quality.score import Judge, Score, judges_of
from benchmarks.search.arena import Arena, Found
from benchmarks.search.document import PROGRAM, Document, Row
from benchmarks.search.engines import DEFAULT, Engine, parse_engines
from benchmarks.search.plot import plot
from benchmarks.search.table import table, verdict
from lathe.artefact.atomic_files import write_bytes
from lathe.artefact.errors import UserError
from lathe.compressor.compute.progress import Progress
from lathe.compressor.latency.effort import SECONDS
from lathe.compressor.latency.workload import parse_factor
from lathe.compressor.pipeline.option_values import WINDOW
from lathe.compressor.pipeline.options import CompressOptions

_SETTINGS = ("model", "text", "eval", "tokens", "windows", "seed", "profile")


def main() -> int:
    """Returns the exit status."""
    args = _arguments()
    return exit_status(lambda: compare(args))


def compare(args: argparse.Namespace) -> None:
    """Runs all engines on all budgets that have no rows yet, and prints what was found.

    Raises:
        UserError: an engine, a budget, the model or a text will not do.
    """
    engines, budgets = parse_engines(args.engines), args.budgets.split(",")
    speedups = [parse_factor(budget) for budget in budgets]
    document = Document(args.out, {name: getattr(args, name) for name in _SETTINGS})
    pairs = zip(budgets, speedups, strict=True)
    pending = [(e, b, s) for b, s in pairs for e in engines if not document.has(e.name, b)]
    if pending:
        with Arena.open(_options(args), Progress()) as arena:
            _run(args, arena, document, pending)
    print(table(document.rows), *verdict(document.rows), sep="\n")
    for text in dict.fromkeys(row["text"] for row in document.rows):
        drawn = args.out.with_name(f"{args.out.stem}-{Path(text).stem}.svg")
        write_bytes(drawn, plot(document.rows, text).encode())


def _run(
    args: argparse.Namespace,
    arena: Arena,
    document: Document,
    pending: Sequence[tuple[Engine, str, float]],
) -> None:
    setting = arena.setting
    judges = judges_of(setting, args.eval, args.windows)
    for engine, budget, speedup in pending:
        arena.context.progress.say(f"{engine.name} at {budget}")
        try:
            found = arena.search(engine, speedup)
        except UserError as error:
            print(f"  {engine.name} at {budget}: no row. {error}", file=sys.stderr)
            continue
        pruned = [setting.prune(i, kept) for i, kept in enumerate(found.result.selections)]
        subnets = [setting.subnet(layers) for layers in (pruned, arena.finish(found.result))]
        facts = _facts(arena, found, measure=args.measure) | {"engine": engine.name, "budget": budget}
        rows = []
        for text, judge in judges.items():
            before, after = (judge.score(subnet.hidden) for subnet in subnets)
            rows.append({**facts, "text": Path(text).name, **_scores(judge, before, after)})
        document.add(rows, dense_ms=arena.table.dense_ms)


def _facts(arena: Arena, found: Found, *, measure: bool) -> Row:
    """Returns what is known of a plan besides its scores."""
    predicted, result = arena.table.predict(found.result.plan), found.result
    measured = {"measured_speedup": arena.measured_speedup(result)} if measure else {}
    return {
        "predicted_ms": predicted,
        "speedup": arena.table.dense_ms / predicted,
        **measured,
        "seconds": round(found.seconds, 2),
        "cpu_seconds": round(found.cpu_seconds, 2),
        "table_cpu_seconds": round(found.table_cpu_seconds, 2),
        "forward_tokens": found.forward_tokens,
        "backward_tokens": found.backward_tokens,
        "peak_memory_bytes": found.peak_memory_bytes,
        "evaluations": result.evaluations,
        "fitness": result.fitness,
        **({"heldout": found.heldout, "finalists": found.finalists} if found.heldout else {}),
        "plan": result.plan.to_json()["layers"],
    }


def _scores(judge: Judge, before: Score, after: Score) -> Row:
    return {
        "dense_loss": judge.dense_loss,
        "increase_before": before.loss - judge.dense_loss,
        "increase": after.loss - judge.dense_loss,
        "kl_before": before.kl,
        **asdict(after),
    }


def _options(args: argparse.Namespace) -> CompressOptions:
    """Returns a run of `compress` that times plans and shares its directory with later runs."""
    return CompressOptions(
        model=args.model,
        method="fast",
        out=args.out.parent / "work" / f"search-{Path(args.model).name}-{args.tokens}-{args.seed}",
        target_speedup=1.0,
        bits="16",
        calibration=args.text,
        calibration_tokens=args.tokens,
        seed=args.seed,
        profile=Path(args.profile) if args.profile else None,
        measure_seconds=args.measure_seconds,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m {PROGRAM}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, help="a checkpoint's directory")
    add("--text", required=True, help="to calibrate on: files or folders, or `self`, which the model writes")
    add("--eval", required=True, help="to score on: files, with commas")
    add("--budgets", default="1.2x,1.5x,2x", help="speed-ups, with commas [%(default)s]")
    add(
        "--engines",
        default=",".join(DEFAULT),
        help="of `compress --method`, with the number of evaluations after a colon [%(default)s]",
    )
    add("--tokens", type=int, default=65_536, help="of the calibration text [%(default)s]")
    add("--windows", type=int, default=32, help=f"of {WINDOW} tokens of every text [%(default)s]")
    add("--seed", type=int, default=0, help="[%(default)s]")
    add("--profile", help="a latency table of `lathe profile` [it is measured]")
    add("--measure", action="store_true", help="time every plan in turns with the dense model, too")
    add("--measure-seconds", type=float, default=SECONDS, help="for the table [%(default)s]")
    add("--out", type=Path, default=Path("build/bench/search.json"), help="the document [%(default)s]")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
