"""The tensors of a GGUF model under the names of a Hugging Face checkpoint, with their values undone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lathe.artefact.errors import UserError
from lathe.artefact.gguf.file import GgufModel
from lathe.artefact.gguf.header import GgufTensor
from lathe.compressor.model.families import locate_tensors, resolve
from lathe.compressor.model.gguf.architectures import Architecture
from lathe.compressor.model.gguf.quantization import read_values, value_dtype
from lathe.compressor.model.gguf.rope import FREQUENCIES
from lathe.compressor.model.safetensors_writer import Entry

_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_IN_LAYER = re.compile(r"blk\.(?P<layer>\d+)\.(?P<module>.+)\.(?P<kind>weight|bias)")
_OUTSIDE = re.compile(r"(?P<module>[^.]+)\.(?P<kind>weight|bias)")
_ROTATED = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
_DERIVED = {FREQUENCIES}
"""Tensors that are settings of the config."""


@dataclass(frozen=True)
class Converted:
    """One tensor of the checkpoint.

    Attributes:
        source: Where its values are.
        heads: The number of heads whose rows are in llama.cpp's order, or 0.
        offset: What is subtracted.
    """

    source: GgufTensor
    heads: int = 0
    offset: float = 0.0

    @property
    def entry(self) -> Entry:
        """What is written for it."""
        return Entry(self.source.shape, torch.float32 if self.offset else value_dtype(self.source))

    def read(self) -> torch.Tensor:
        """Returns its values as the checkpoint has them.

        Raises:
            OSError: The file cannot be read.
        """
        rows = _rows(self.source.shape[0], self.heads) if self.heads else None
        matrix = len(self.source.shape) > 1
        value = read_values(self.source, rows if matrix else None)
        value = value if rows is None or matrix else value[rows]
        return value.float() - self.offset if self.offset else value


def convert_tensors(
    model: GgufModel, architecture: Architecture, config: Mapping[str, Any]
) -> dict[str, Converted]:
    """Returns the tensors of the checkpoint by name, in the file's order.

    Raises:
        UserError: A tensor is missing, has another shape than the config implies, or has no place.
    """
    found: dict[str, Converted] = {}
    spelled: dict[str, str] = {}
    for name, tensor in model.tensors.items():
        if name in _DERIVED:
            continue
        ours = _name(name, architecture)
        if ours is None:
            raise UserError(
                f"{model.path} has a tensor `{name}` that Lathe has no place for in the architecture "
                f"`{model.architecture}`",
                "Compress the model's Hugging Face checkpoint.",
            )
        module = name.split(".")[-2]
        heads = int(config[_ROTATED[module]]) if architecture.interleaved and module in _ROTATED else 0
        norm = "norm" in module and name.endswith("weight")
        found[ours] = Converted(tensor, heads, architecture.norm_offset if norm else 0.0)
        spelled[ours] = name
    _check(model, found, spelled, config)
    return found


def _name(name: str, architecture: Architecture) -> str | None:
    """Returns the name of a tensor in the checkpoint, if it has a place there."""
    if part := _IN_LAYER.fullmatch(name):
        module = architecture.modules.get(part["module"])
        return f"model.layers.{part['layer']}.{module}.{part['kind']}" if module else None
    part = _OUTSIDE.fullmatch(name)
    module = _TOP.get(part["module"]) if part else None
    return f"{module}.{part['kind']}" if part and module else None


def _check(
    model: GgufModel, found: Mapping[str, Converted], spelled: Mapping[str, str], config: Mapping[str, Any]
) -> None:
    """Checks the tensors against those that the config implies."""
    family = resolve(config)
    shape = family.shape(family.read(config))
    places = locate_tensors(family, shape, False).values()
    wanted = {name: dims for place in places for name, dims in place.stored.items()}
    for name, dims in wanted.items():
        if name not in found:
            raise UserError(f"{model.path} lacks the tensor for `{name}`", "Is this a whole language model?")
        actual = found[name].source.shape
        if actual != dims:
            raise UserError(
                f"`{spelled[name]}` in {model.path} has the shape {list(actual)}; its metadata implies "
                f"{list(dims)}"
            )
    for name in found.keys() - wanted.keys():
        raise UserError(
            f"{model.path} has a tensor `{spelled[name]}` that its metadata has no place for",
            "Compress the model's Hugging Face checkpoint.",
        )


def _rows(rows: int, heads: int) -> np.ndarray[Any, Any]:
    """Returns where each row is in llama.cpp's order: the halves of each head are interleaved there."""
    return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)
