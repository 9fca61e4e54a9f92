"""Tables of the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """Returns a table whose first column names the rows; a wide one scrolls sideways."""
    shown = f"<caption>{escape(caption)}</caption>" if caption else ""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    return (
        f'<div class="wide"><table>{shown}<thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(_row(row) for row in rows)}</tbody></table></div>"
    )


def paragraphs(lines: Iterable[str], style: str = "") -> str:
    """Returns a paragraph for each line."""
    kind = f' class="{style}"' if style else ""
    return "".join(f"<p{kind}>{escape(line)}</p>" for line in lines)


def _row(row: Sequence[str]) -> str:
    cells = "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
    return f'<tr><th scope="row">{escape(row[0])}</th>{cells}</tr>'
