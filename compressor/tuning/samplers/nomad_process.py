"""A search of NOMAD in a process of its own: points are written to stdout, their losses read from stdin."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

_MOST = 100_000
"""Points that a search may ask for; who started it ends it sooner."""


def main() -> None:
    """Reads what is searched, and searches."""
    import PyNomad

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # NOMAD prints there
    asked = json.loads(sys.stdin.readline())

    def loss(point: Any) -> int:
        answers.write(json.dumps([round(point.get_coord(i)) for i in range(point.size())]) + "\n")
        answers.flush()
        if not (answer := sys.stdin.readline()):
            os._exit(0)
        point.setBBO(answer.strip().encode())
        return 1

    tops = asked["tops"]
    PyNomad.optimize(
        loss,
        asked["start"],
        [0] * len(tops),
        tops,
        [
            f"BB_INPUT_TYPE ({' '.join('I' for _ in tops)})",
            "BB_OUTPUT_TYPE OBJ",
            f"MAX_BB_EVAL {_MOST}",
            f"SEED {asked['seed']}",
            "DISPLAY_DEGREE 0",
        ],
    )


if __name__ == "__main__":
    main()
