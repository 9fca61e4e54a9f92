"""Matrices as the compressed-tensors format stores them, which vLLM reads: rounding, packing, config entry.

Scales are rounded to bfloat16 before codes are chosen for them: a checkpoint has the same values in whatever
dtype it is served.

Letters: R rows (outputs), C columns (inputs).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from lathe.compressor.model.rounding import relative_error, round_matrix
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

    def store(
        self, matrix: str, weight_RC: torch.Tensor, dtype: torch.dtype
    ) -> tuple[dict[str, torch.Tensor], float]:
        """The tensors of `entries`, and the norm of the rounding error relative to the matrix's."""
        codes_RC, scales_RG = round_matrix(weight_RC, self.bits, self.group)
        scales_RG = scales_RG.to(torch.float32 if self.bits == 8 else dtype)
        error = relative_error(weight_RC, codes_RC, scales_RG)
        if self.bits == 8:
            return {matrix: codes_RC, f"{matrix}_scale": scales_RG}, error
        stored = {
            f"{matrix}_packed": pack(codes_RC),
            f"{matrix}_scale": scales_RG,
            f"{matrix}_shape": torch.tensor(weight_RC.shape),
        }
        return stored, error

    def config(self) -> dict[str, Any]:
        """Returns `quantization_config` of config.json: every linear layer but the head."""
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


def pack(codes_RC: torch.Tensor) -> torch.Tensor:
    """4-bit codes as int32 words of eight, the first in the lowest bits, each with 8 added."""
    words = (codes_RC.int() + 8).view(codes_RC.shape[0], -1, _PER_WORD)
    return (words << torch.arange(0, 32, 4, dtype=torch.int32)).sum(-1, dtype=torch.int32)
