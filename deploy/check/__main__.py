"""Is what `deploy/` ships sound, and does it fit the server?

    make check-deploy

Prints a line per check and writes build/bench/deploy.json; exit status 1 when one is broken. No container is
built or started: no daemon is needed, nor a cluster, nor a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from deploy.check import board, compose, dockerfile, live, manifests, rules
from deploy.check.report import Row


def main() -> int:
    args = _arguments()
    parts: dict[str, Callable[[], list[Row]]] = {
        "dockerfile": dockerfile.lint,
        "manifests": manifests.check,
        "compose": compose.check,
        "rules": rules.check,
        "board": board.check,
        "live": lambda: live.check(args.model.resolve()),
    }
    rows = []
    for name in args.parts.split(",") if args.parts else parts:
        for row in parts[name]():
            rows.append(row)
            row.print()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    document = [
        {"check": r.check, "result": r.result, "held": r.held, "findings": list(r.findings)} for r in rows
    ]
    args.out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"{sum(row.held for row in rows)} of {len(rows)} checks held; {args.out}")
    return int(not all(row.held for row in rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Checks of deploy/.")
    parser.add_argument("--parts", default="", help="such as dockerfile,manifests; all by default")
    parser.add_argument("--model", type=Path, default=Path("build/deploy/artefact"))
    parser.add_argument("--out", type=Path, default=Path("build/bench/deploy.json"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
