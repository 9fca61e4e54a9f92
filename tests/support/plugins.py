"""Distributions with entry points, as small as an installed one can be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def install(place: Path, name: str, code: str, points: Mapping[str, Mapping[str, str]]) -> Path:
    """Puts a module and the metadata of its distribution into a folder, which is to be on the path.

    Args:
        place: the folder; it may exist.
        name: of the distribution, version 1.2, and with `_` for `-` of its only module.
        code: the module's text.
        points: for each group of entry points, names and what they stand for.
    """
    module = name.replace("-", "_")
    metadata = place / f"{module}-1.2.dist-info"
    metadata.mkdir(parents=True)
    (place / f"{module}.py").write_text(code)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    lines = [
        line
        for group, named in points.items()
        for line in (f"[{group}]", *(f"{point} = {value}" for point, value in named.items()))
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return place
