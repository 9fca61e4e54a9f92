"""The exit status of a benchmark's command."""

from __future__ import annotations

import sys
from collections.abc import Callable

from lathe.artefact.errors import UserError


def exit_status(work: Callable[[], object]) -> int:
    """Returns 0 once the work is done; 1 for an error of the user's, which is printed."""
    try:
        work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
