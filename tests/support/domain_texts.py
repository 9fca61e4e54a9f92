"""Texts of two kinds that nobody confuses: words of small letters, and numbers in brackets."""

from __future__ import annotations

import random
from pathlib import Path


def prose(number: int) -> str:
    """Words of small letters."""
    draw = random.Random(number)
    return " ".join("".join(draw.choices("aehilnorstu", k=draw.randint(2, 7))) for _ in range(120))


def code(number: int) -> str:
    """Numbers and brackets."""
    draw = random.Random(number)
    return "\n".join(f"[{draw.randint(0, 999)}]({draw.randint(0, 999)})={{}};" for _ in range(50))


def make_texts(place: Path) -> dict[str, Path]:
    """Writes a folder of eight documents of each kind; returns the folders by the name of the kind."""
    for name, write in (("prose", prose), ("code", code)):
        (place / name).mkdir()
        for number in range(8):
            (place / name / f"{number}.txt").write_text(write(number))
    return {"prose": place / "prose", "code": place / "code"}
