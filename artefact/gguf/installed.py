"""Whether the `gguf` package is there, which reads and writes values of GGUF files."""

from __future__ import annotations

from lathe.artefact.errors import UserError


def check_installed(what: str) -> None:
    """Checks that the `gguf` package is there.

    Args:
        what: What needs it, such as "reading a GGUF file".

    Raises:
        UserError: It is not, with the command that installs it.
    """
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise UserError(
            f"{what} needs the package gguf, which is not installed", "pip install 'lathe[gguf]'"
        ) from None
