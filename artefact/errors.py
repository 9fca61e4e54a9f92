"""The one exception that reaches a user."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: what is wrong, where, and what to do about it.

    The command line prints the message as one line and exits with status 1; `--debug` adds the
    traceback.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        problem = " ".join(problem.split())
        super().__init__(f"{problem.rstrip('.')}. {remedy}".strip() if remedy else problem)
