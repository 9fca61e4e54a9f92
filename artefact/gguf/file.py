"""A whole GGUF model: one file, or the parts of a split one, with metadata of checked types."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lathe.artefact.errors import UserError
from lathe.artefact.gguf.header import DAMAGED, GgufTensor, read_header
from lathe.artefact.gguf_suffix import SUFFIX

_PART = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
TOKENS = "tokenizer.ggml.tokens"
"""The metadata that lists the vocabulary."""
_KINDS = {bool: "a yes or no", int: "a whole number", float: "a number", str: "a text", list: "a list"}


@dataclass(frozen=True)
class GgufModel:
    """A GGUF model's metadata and tensors.

    Attributes:
        path: The file, or the first part of a split one.
        files: All files that it is made of.
        metadata: By key.
        tensors: By their names in GGUF.
    """

    path: Path
    files: tuple[Path, ...]
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]

    @property
    def name(self) -> str:
        """The file's name without what says that it is GGUF, or a part."""
        part = _PART.fullmatch(self.path.name)
        return part["name"] if part else self.path.stem

    @property
    def architecture(self) -> str:
        return str(self.required("general.architecture", str))

    def required(self, key: str, kind: type) -> Any:
        """Returns the value of a key.

        Raises:
            UserError: There is none, or it is of another type.
        """
        if key not in self.metadata:
            raise UserError(f"{self.path} has no metadata `{key}`", "Is this a whole language model?")
        return self.get(key, kind)

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """Returns the value of a key, or a default.

        Raises:
            UserError: It is of another type.
        """
        value = self.metadata.get(key)
        if value is None:
            return default
        if isinstance(value, list) and kind is int:
            value = self._same(key, value)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if kind is float and whole:
            return float(value)
        if not isinstance(value, kind) or (kind is int and not whole):
            raise UserError(f"the metadata `{key}` of {self.path} is not {_KINDS[kind]}", DAMAGED)
        return value

    def _same(self, key: str, values: list[Any]) -> Any:
        """Returns the value of a setting that is given by layer."""
        if len(set(map(str, values))) != 1:
            raise UserError(
                f"`{key}` of {self.path} differs from layer to layer", "Lathe reads models with even layers."
            )
        return values[0]

    def items(self, key: str, kind: type, *, required: bool = False) -> list[Any] | None:
        """Returns a list whose values are all of one type, or None where there is no such key.

        Raises:
            UserError: It is of another type, or missing though required.
        """
        found = self.required(key, list) if required else self.get(key, list)
        if found is not None and not all(isinstance(item, kind) for item in found):
            raise UserError(f"the metadata `{key}` of {self.path} has values of other types", DAMAGED)
        return list(found) if found is not None else None


def open_gguf(path: Path) -> GgufModel:
    """Reads the headers of a GGUF model, and no weights.

    Raises:
        UserError: A file is missing or damaged.
    """
    files = _parts(path)
    headers = [read_header(file) for file in files]
    metadata = headers[0].metadata
    count = metadata.get("split.count", 1)
    if count not in (0, 1, len(files)):
        raise UserError(
            f"{path} is one of {count} parts of a split model",
            f"Give it the name that it was published under: NAME-00001-of-{count:05d}{SUFFIX}."
            if isinstance(count, int)
            else DAMAGED,
        )
    tensors: dict[str, GgufTensor] = {}
    for header in headers:
        twice = tensors.keys() & header.tensors.keys()
        if twice:
            raise UserError(f"two parts of {path} hold `{min(twice)}`", DAMAGED)
        tensors |= header.tensors
    return GgufModel(files[0], tuple(files), metadata, tensors)


def _parts(path: Path) -> list[Path]:
    """Returns all files of a model, of which one is given."""
    part = _PART.fullmatch(path.name)
    if not part:
        return [path]
    count = int(part["count"])
    files = [
        path.with_name(f"{part['name']}-{n:05d}-of-{count:05d}{path.suffix}") for n in range(1, count + 1)
    ]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise UserError(
            f"{path} is a part of a split model, of which {', '.join(missing[:3])} "
            f"{'is' if len(missing) == 1 else 'are'} missing",
            "Download all parts into one folder.",
        )
    return files
