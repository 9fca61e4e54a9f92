"""The error of a vocabulary that cannot be cut."""

from __future__ import annotations

from lathe.artefact.errors import UserError


def refusal(reason: str, remedy: str = "Leave --vocabulary out.") -> UserError:
    """Returns the error with its reason."""
    return UserError(f"the vocabulary cannot be cut: {reason}", remedy)
