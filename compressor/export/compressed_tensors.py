"""Matrices as the compressed-tensors format stores them, which vLLM reads: rounding, packing, config entry.

Rounding is to nearest, symmetric, without calibration. Of several scales, from no clipping to some, each
group takes the one with the least squared error, as compressed-tensors' `mse` observer does. Scales are
rounded to bfloat16 before codes are chosen for them: a checkpoint has the same values in whatever dtype it is
served.

Letters: R rows (outputs), C columns (inputs), G groups of a row, K columns of a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from compressor.errors import UserError
from compressor.export.safetensors import Entry

_SHARES = tuple(1 - 0.04 * step for step in range(10))
"""Scales that are tried: shares of the one that clips nothing."""
_BLOCK = 2**22
"""Values that are rounded at a time."""
_PER_WORD = 8
"""4-bit codes in an int32."""


@dataclass(frozen=True)
class Scheme:
    """How the matrices of decoder layers are stored. group: inputs that share a scale; None: all of a row.
    Codes of 4 bits are packed into words and multiplied as floats; int8 meets int8 activations."""

    name: str
    bits: int
    group: int | None

    def __str__(self) -> str:
        return f"{self.name} ({f'groups of {self.group}' if self.group else 'a scale per channel'})"

    def entries(self, matrix: str, dims: tuple[int, ...], dtype: torch.dtype) -> dict[str, Entry]:
        """What is stored of the matrix `matrix`, by name, in a checkpoint of `dtype`."""
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

    def store(
        self, matrix: str, weight_RC: torch.Tensor, dtype: torch.dtype
    ) -> tuple[dict[str, torch.Tensor], float]:
        """The tensors of `entries`, and the norm of the rounding error relative to the matrix's."""
        codes_RC, scales_RG = round_matrix(weight_RC, self.bits, self.group)
        scales_RG = scales_RG.to(torch.float32 if self.bits == 8 else dtype)
        columns = scales_RG.float().repeat_interleave(codes_RC.shape[1] // scales_RG.shape[1], 1)
        error = (columns.mul_(codes_RC) - weight_RC).norm() / weight_RC.norm().clamp(min=1e-30)
        if self.bits == 8:
            return {matrix: codes_RC, f"{matrix}_scale": scales_RG}, float(error)
        stored = {
            f"{matrix}_packed": pack(codes_RC),
            f"{matrix}_scale": scales_RG,
            f"{matrix}_shape": torch.tensor(weight_RC.shape),
        }
        return stored, float(error)

    def config(self) -> dict[str, Any]:
        """`quantization_config` of config.json: every linear layer but the head."""
        weights = {"num_bits": self.bits, "type": "int", "symmetric": True, "dynamic": False}
        weights |= {"strategy": "group" if self.group else "channel", "group_size": self.group}
        token = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": True, "strategy": "token"}
        group = {"targets": ["Linear"], "weights": weights, "output_activations": None}
        return {
            "quant_method": "compressed-tensors",
            "format": "int-quantized" if self.bits == 8 else "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": {"group_0": group | {"input_activations": token if self.bits == 8 else None}},
            "ignore": ["lm_head"],
            "kv_cache_scheme": None,
        }


SCHEMES = {scheme.name: scheme for scheme in (Scheme("w4a16", 4, 32), Scheme("w8a8", 8, None))}


def scheme_named(name: str) -> Scheme:
    """The scheme called `name`.

    Raises:
        UserError: there is none; names those that there are.
    """
    if name not in SCHEMES:
        raise UserError(f"there is no quantization `{name}`", f"Known: {', '.join(SCHEMES)}.")
    return SCHEMES[name]


def round_matrix(
    weight_RC: torch.Tensor, bits: int, group: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes, int8 [R, C], and scales, float32 [R, G]: the matrix is nearly codes times scales."""
    rows, columns = weight_RC.shape
    groups_RGK = weight_RC.float().reshape(rows, -1, group or columns)
    found = [_round(part, bits) for part in groups_RGK.split(max(1, _BLOCK // columns))]
    codes_RGK, scales_RG = (torch.cat(parts) for parts in zip(*found, strict=True))
    return codes_RGK.view(rows, columns), scales_RG


def _round(groups_RGK: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    half = 2 ** (bits - 1)
    largest = groups_RGK.abs().amax(-1, keepdim=True) / (half - 1)
    scales, least = torch.ones_like(largest), torch.full_like(largest, torch.inf)
    for share in _SHARES:
        tried = (largest * share).bfloat16().float()
        tried[tried == 0] = 1  # a group of zeros
        codes = (groups_RGK / tried).round_().clamp_(-half, half - 1)
        error = codes.mul_(tried).sub_(groups_RGK).square_().sum(-1, keepdim=True)
        scales, least = torch.where(error < least, tried, scales), torch.minimum(error, least)
    codes = (groups_RGK / scales).round_().clamp_(-half, half - 1)
    return codes.to(torch.int8), scales.squeeze(-1)


def pack(codes_RC: torch.Tensor) -> torch.Tensor:
    """4-bit codes as int32 words of eight, the first in the lowest bits, each with 8 added."""
    words = (codes_RC.int() + 8).view(codes_RC.shape[0], -1, _PER_WORD)
    return (words << torch.arange(0, 32, 4, dtype=torch.int32)).sum(-1, dtype=torch.int32)
