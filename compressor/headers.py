"""The tensors of a checkpoint, from the headers of its safetensors files: no data is read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from compressor.errors import UserError

_DTYPE_BYTES = {
    "F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
FLOATS = ("F64", "F32", "BF16", "F16")
_MAX_HEADER = 100 * 2**20


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies, read from a safetensors header without touching its data."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def read_index(path: Path) -> dict[str, TensorEntry]:
    """Every tensor of a checkpoint, by name, from its safetensors headers.

    Raises:
        UserError: a file is missing, truncated or damaged.
    """
    index_file, single = path / "model.safetensors.index.json", path / "model.safetensors"
    if index_file.exists():
        try:
            files = sorted(set(json.loads(index_file.read_text())["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"cannot read {index_file}: {error!r}") from None
        shards = [path / Path(str(name)).name for name in files]
    elif single.exists():
        shards = [single]
    else:
        hint = " It has PyTorch .bin files: convert them to safetensors." if list(path.glob("*.bin")) else ""
        raise UserError(f"{path} has no model.safetensors and no model.safetensors.index.json.{hint}")
    index: dict[str, TensorEntry] = {}
    for shard in shards:
        index.update(_read_header(shard))
    return index


def _read_header(file: Path) -> dict[str, TensorEntry]:
    """Parse and check a safetensors header: length, JSON, dtypes, and that the data fills the file."""
    damaged = "The file is truncated or corrupt: download or copy it again."
    try:
        size = file.stat().st_size
        with file.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if size < 8 or not 2 <= length <= min(_MAX_HEADER, size - 8):
                raise UserError(f"{file} is not a complete safetensors file", damaged)
            header = json.loads(handle.read(length))
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise UserError(f"the header of {file} is not valid JSON", damaged) from None
    entries, end = {}, 0
    try:
        for name, item in header.items():
            if name == "__metadata__":
                continue
            shape, dtype, (begin, stop) = tuple(item["shape"]), item["dtype"], item["data_offsets"]
            count = 1
            for n in shape:
                count *= n
            if dtype in _DTYPE_BYTES and stop - begin != count * _DTYPE_BYTES[dtype]:
                raise UserError(
                    f"`{name}` in {file} has {stop - begin} bytes for shape {list(shape)}", damaged
                )
            entries[name], end = TensorEntry(file, shape, dtype), max(end, stop)
    except (TypeError, KeyError, ValueError, AttributeError):
        raise UserError(f"the header of {file} is malformed", damaged) from None
    if 8 + length + end != size:
        raise UserError(f"{file} has {size} bytes where its header promises {8 + length + end}", damaged)
    try:
        with safe_open(file, framework="pt"):
            return entries
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read {file}: {error}", damaged) from None


def check_no_others(path: Path, known: set[str], index: dict[str, TensorEntry]) -> None:
    """Refuse weights that the family has no place for: the model would be another without them."""
    for name in sorted(index.keys() - known):
        if name.endswith((".weight", ".bias")):
            raise UserError(
                f"{path} has a tensor `{name}` that its model type has no place for",
                "Is config.json another model's?",
            )


def check_tensors(
    path: Path,
    tensors: Iterable[tuple[str, tuple[int, ...]]],
    index: dict[str, TensorEntry],
    dtypes: tuple[str, ...] = FLOATS,
) -> None:
    """Whether a checkpoint holds these tensors (name, shape) in one of these types.

    Raises:
        UserError: one is missing, of another shape, or of another type.
    """
    for name, expected in tensors:
        if name not in index:
            raise UserError(
                f"{path} lacks the tensor `{name}`",
                "The checkpoint is incomplete, or config.json is another model's.",
            )
        if index[name].shape != expected:
            raise UserError(
                f"`{name}` in {path} has shape {list(index[name].shape)}; "
                f"config.json implies {list(expected)}"
            )
        if index[name].dtype not in dtypes:
            raise UserError(f"`{name}` in {path} holds {index[name].dtype} values", "Use a float checkpoint.")
