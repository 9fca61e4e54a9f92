"""Matrices as the compressed-tensors format stores them, which vLLM reads: rounding, packing, config entry.

Scales are rounded to bfloat16 before codes are chosen for them: a checkpoint has the same values in whatever
dtype it is served.

Letters: R rows (outputs), C columns (inputs).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lathe.compressor.model.names import LM_HEAD
from lathe.compressor.model.rounding import QuantizedMatrix, relative_error, round_matrix
from lathe.compressor.model.safetensors_writer import Entry

_PER_WORD = 8
"""4-bit codes in an int32."""


@dataclass(frozen=True)
class Scheme:
    """The format of decoder matrices in compressed-tensors.

    Codes of 4 bits are packed into words and multiplied as floats; int8 codes are multiplied by int8
    activations.

    Attributes:
        name: What vLLM calls it.
        bits: Of a code.
        group: Inputs that share a scale; None: all of a row.
    """

    name: str
    bits: int
    group: int | None

    def __str__(self) -> str:
        return f"{self.name} ({f'groups of {self.group}' if self.group else 'a scale per channel'})"

    def entries(self, matrix: str, dims: tuple[int, ...], dtype: torch.dtype) -> dict[str, Entry]:
        """Returns what is stored of the matrix `matrix`, by name, in a checkpoint of `dtype`."""
        rows, columns = dims
        if self.bits == 8:
            return {
                matrix: Entry((rows, columns), torch.int8),
                f"{matrix}_scale": Entry((rows, 1), torch.float32),
            }
        return {
            f"{matrix}_packed": Entry((rows, columns // _PER_WORD), torch.int32),
            f"{matrix}_scale": Entry((rows, columns // (self.group or columns)), dtype),
            f"{matrix}_shape": Entry((2,), torch.int64),
        }

    def round(self, weight_RC: torch.Tensor) -> QuantizedMatrix:
        """Returns a matrix rounded to nearest."""
        codes_RC, scales_RG = round_matrix(weight_RC, self.bits, self.group)
        error = relative_error(weight_RC, codes_RC, scales_RG)
        columns = weight_RC.shape[1]
        return QuantizedMatrix(codes_RC, scales_RG, self.group or columns, self.bits, columns, error)

    def store(self, matrix: str, rounded: QuantizedMatrix, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Returns the tensors of `entries`. A scale too small for `dtype` stands for a group of zeros."""
        codes_RC = rounded.codes[:, : rounded.columns]
        scales_RG = rounded.scales.to(torch.float32 if self.bits == 8 else dtype)
        if not scales_RG.all():
            lost_RC = (scales_RG == 0).repeat_interleave(rounded.group, 1)[:, : rounded.columns]
            codes_RC, scales_RG = codes_RC.masked_fill(lost_RC, 0), scales_RG.masked_fill(scales_RG == 0, 1)
        if self.bits == 8:
            return {matrix: codes_RC.contiguous(), f"{matrix}_scale": scales_RG}
        return {
            f"{matrix}_packed": pack(codes_RC),
            f"{matrix}_scale": scales_RG,
            f"{matrix}_shape": torch.tensor(codes_RC.shape),
        }

    @property
    def format(self) -> str:
        """What compressed-tensors calls the layout of the stored tensors."""
        return "int-quantized" if self.bits == 8 else "pack-quantized"

    def config(self) -> dict[str, Any]:
        """Returns `quantization_config` of config.json: every linear layer but the head."""
        return _config(self.format, [self.config_group(["Linear"])], ["lm_head"])

    def config_group(self, targets: Sequence[str]) -> dict[str, Any]:
        """Returns an entry of `config_groups` for some modules, or kinds of modules."""
        weights = {"num_bits": self.bits, "type": "int", "symmetric": True, "dynamic": False}
        weights |= {"strategy": "group" if self.group else "channel", "group_size": self.group}
        token = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": True, "strategy": "token"}
        group = {"targets": [*targets], "weights": weights, "output_activations": None}
        return group | {"input_activations": token if self.bits == 8 else None}


SCHEMES = {scheme.name: scheme for scheme in (Scheme("w4a16", 4, 32), Scheme("w8a8", 8, None))}
SCHEME_OF = {scheme.bits: scheme for scheme in SCHEMES.values()}
"""The scheme of a block's matrices, by the bits that a plan gives it; without bits they stay as they are."""


def mixed_config(schemes: Mapping[str, Scheme | None]) -> dict[str, Any]:
    """Returns `quantization_config` of a model whose matrices have schemes of their own.

    Args:
        schemes: The scheme of every matrix of a layer, by its tensor's name; None: its weights are floats.
    """
    modules = {name.removesuffix(".weight"): scheme for name, scheme in schemes.items()} | {LM_HEAD: None}
    used = {scheme.name: scheme for scheme in modules.values() if scheme}
    groups = [
        scheme.config_group([module for module, own in modules.items() if own == scheme])
        | {"format": scheme.format}
        for _, scheme in sorted(used.items())
    ]
    return _config("mixed-precision", groups, [module for module, own in modules.items() if own is None])


def _config(form: str, groups: Sequence[dict[str, Any]], ignored: Sequence[str]) -> dict[str, Any]:
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "config_groups": {f"group_{number}": group for number, group in enumerate(groups)},
        "ignore": [*ignored],
        "kv_cache_scheme": None,
    }


def pack(codes_RC: torch.Tensor) -> torch.Tensor:
    """4-bit codes as int32 words of eight, the first in the lowest bits, each with 8 added."""
    words = (codes_RC.int() + 8).view(codes_RC.shape[0], -1, _PER_WORD)
    return (words << torch.arange(0, 32, 4, dtype=torch.int32)).sum(-1, dtype=torch.int32)
