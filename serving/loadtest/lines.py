"""Lines of the user's files, by the numbers that an editor shows."""

from __future__ import annotations

from pathlib import Path

from compressor.errors import UserError


def numbered_lines(path: Path, what: str) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers. Only a line feed ends one: JSON strings may hold
    other separators. A byte order mark is no text. Raises UserError if the file, `what`, cannot be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{what} {path} cannot be read: {error}") from error
    lines = ((number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), 1))
    return [(number, line) for number, line in lines if line.strip()]
