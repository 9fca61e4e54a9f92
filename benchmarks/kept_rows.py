"""The rows of a benchmark of variants, those that an interrupted run left included."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality.score import machine
from lathe.artefact.atomic_files import write_json
from lathe.artefact.errors import UserError

Compare = Callable[[argparse.Namespace, Sequence[str]], Iterable[list[dict[str, Any]]]]
"""(arguments, variants) -> the rows of each variant."""


def kept_rows(out: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows of a document with these settings; none where there is no document.

    Raises:
        UserError: the document is of other settings.
    """
    if not out.exists():
        return []
    document = json.loads(out.read_text(encoding="utf-8"))
    if any(document.get(name) != value for name, value in settings.items()):
        raise UserError(f"{out} has rows of other settings", "Give another --out, or remove it.")
    rows: list[dict[str, Any]] = document["rows"]
    return rows


def run_variants(
    args: argparse.Namespace, program: str, settings: Sequence[str], asked: Sequence[str], compare: Compare
) -> list[dict[str, Any]]:
    """Makes and scores the variants that `args.out` has no rows of, and returns the rows of all.

    The document is written after every variant.

    Args:
        args: The command's arguments.
        program: The name of its module.
        settings: The arguments that all rows of a document share.
        asked: The variants.
        compare: Yields the rows of every variant that it is given.

    Raises:
        UserError: the document is of other settings, or the model or a text will not do.
    """
    given = {name: getattr(args, name) for name in settings}
    rows = kept_rows(args.out, given)
    pending = [name for name in asked if name not in {row["variant"] for row in rows}]
    document = {
        "command": shlex.join(["python", "-m", program, *sys.argv[1:]]),
        **given,
        "unit": "nats per token",
        "machine": machine(),
    }
    for found in compare(args, pending) if pending else ():
        rows += found
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.out, document | {"rows": rows})
    return rows
