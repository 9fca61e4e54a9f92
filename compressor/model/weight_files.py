"""The files of a folder that hold its model's weights: those that transformers reads."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

from lathe.artefact.errors import UserError

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")


def weight_files(path: Path, named: Any = None) -> list[Path]:
    """Returns the files of weights in the order in which they are read.

    It is the file that config.json names as `transformers_weights`; else the single file; else the shards of
    the index. Of equal names the last counts.

    Raises:
        UserError: there are none, or the index cannot be read or names files elsewhere.
    """
    if any(_DISTRIBUTED.fullmatch(file.name) for file in path.glob("shard-*.safetensors")):
        raise UserError(
            f"{path} holds a distributed checkpoint (shard-*.safetensors)",
            "Load it with transformers, save it with `save_pretrained`, and give that folder.",
        )
    if named is not None:
        return _named(path, str(named))
    if (path / _SINGLE).exists():
        return [path / _SINGLE]
    if (path / _INDEX).exists():
        return _shards(path, path / _INDEX)
    hint = " It has PyTorch .bin files: convert them to safetensors." if list(path.glob("*.bin")) else ""
    raise UserError(f"{path} has no {_SINGLE} and no {_INDEX}.{hint}")


def layout_note(path: Path, named: Any = None) -> str | None:
    """A warning about a folder with two layouts, perhaps of two models: which one counts."""
    if named is not None or not ((path / _SINGLE).exists() and (path / _INDEX).exists()):
        return None
    return (
        f"{path} has both {_SINGLE} and {_INDEX}; as transformers does, the single file is read and the "
        "shards are not: remove the one that is not meant"
    )


def _named(path: Path, name: str) -> list[Path]:
    file = _inside(path, name, "config.json names as `transformers_weights`")
    return _shards(path, file) if name.endswith(".index.json") else [file]


def _shards(path: Path, index: Path) -> list[Path]:
    try:
        document = json.loads(index.read_text())
        names = sorted(set(document["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"cannot read {index}: {error!r}") from None
    if "metadata" not in document:
        raise UserError(
            f"{index} has no `metadata`, without which transformers does not load it", 'Add `"metadata": {}`.'
        )
    return [_inside(path, str(name), f"{index.name} names") for name in names]


def _inside(path: Path, name: str, by: str) -> Path:
    at = PurePosixPath(name)
    if at.is_absolute() or ".." in at.parts:
        raise UserError(f"{path}: the file `{name}`, which {by}, is not in the folder", "Put it there.")
    return path / at
