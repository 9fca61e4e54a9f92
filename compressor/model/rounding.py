"""Quantization by rounding to nearest: symmetric, without calibration.

Exports write what this module computes, and `lathe plan` evaluates the same values. Of several scales, from
no clipping to some, each group takes the one with the least squared error, as compressed-tensors' `mse`
observer does. A large group is fast and small. Every matrix has the largest group with which its error is no
larger than that of plain rounding in groups of 32: groups are chosen by what they cost each matrix (the idea
of FineQuant, arXiv 2308.09723, Sec. 3), and no matrix is worse than the usual format has it.

Shapes: R rows (outputs), C columns (inputs), G groups of a row, K columns of a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

BITS = (8, 4)
GROUPS = (256, 128, 64, 32)
"""Columns that may share a scale: the groups of ONNX Runtime's fast kernels, the fastest first."""
_NEGLIGIBLE_ERROR = 0.01
PADDING = 0.03
_CLIPPING = tuple(1 - 0.04 * step for step in range(10))
"""The scales that are tried, as shares of the scale that clips nothing."""
_BLOCK = 2**19
"""Values that are rounded at a time: they and their temporaries stay in a processor's cache."""


@dataclass(frozen=True)
class QuantizedMatrix:
    """A matrix as codes times scales.

    Attributes:
        codes: int8 [R, G * group]; the last group is filled up with zeros.
        scales: float32 [R, G].
        columns: C.
        error: the norm of the difference over the norm of the matrix.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    group: int
    bits: int
    columns: int
    error: float

    @property
    def packed(self) -> torch.Tensor:
        """Unsigned codes, uint8 [R, G * group * bits / 8]; of 4 bits the first is in the lower half."""
        raised = (self.codes.int() + 2 ** (self.bits - 1)).to(torch.uint8)
        return raised if self.bits == 8 else raised[:, ::2] | (raised[:, 1::2] << 4)

    @property
    def values(self) -> torch.Tensor:
        """The dequantized matrix, float32 [R, C]."""
        return (self.scales.repeat_interleave(self.group, 1) * self.codes)[:, : self.columns]

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: torch.Tensor) -> QuantizedMatrix:
        """Returns rows by their indices; the error stays that of the whole matrix."""
        return replace(self, codes=self.codes[rows], scales=self.scales[rows])

    def padded(self, rows: int, columns: int) -> QuantizedMatrix:
        """Returns the matrix with rows and columns of zeros behind it."""
        fill = -columns % self.group + columns - self.codes.shape[1]
        codes = torch.nn.functional.pad(self.codes, (0, fill, 0, rows - len(self)))
        scales = torch.nn.functional.pad(self.scales, (0, fill // self.group, 0, rows - len(self)), value=1.0)
        return replace(self, codes=codes, scales=scales, columns=columns)

    @classmethod
    def stacked(cls, parts: Sequence[QuantizedMatrix]) -> QuantizedMatrix:
        """Stacks the rows of matrices that have the same groups and bits."""
        norms = torch.stack([part.values.norm() for part in parts])
        errors = torch.tensor([part.error for part in parts])
        return replace(
            parts[0],
            codes=torch.cat([part.codes for part in parts]),
            scales=torch.cat([part.scales for part in parts]),
            error=float((errors * norms).norm() / norms.norm().clamp(min=1e-30)),
        )


def groups_for(columns: int, padding: float = PADDING) -> list[int]:
    """Returns the groups that pad a row by no more than a share `padding`; the smallest in any case."""
    return [g for g in GROUPS if g == GROUPS[-1] or -columns % g <= padding * columns]


def expert_groups(width: int, channels: int) -> list[int]:
    """Returns the groups that both matrices of an expert can share: its down projection is padded to them."""
    return [group for group in groups_for(channels) if width % group == 0]


def quantize_matrix(weight_RC: torch.Tensor, bits: int, groups: Sequence[int]) -> QuantizedMatrix:
    """Quantizes with the largest group that is accurate enough.

    Its error is at most 1 %, or at most that of plain rounding in groups of 32.
    """
    quantize = partial(quantize_in_groups, weight_RC, bits)
    allowed = max(_NEGLIGIBLE_ERROR, quantize(GROUPS[-1], clip=False, signed=False).error)
    for group in groups[:-1]:
        if (found := quantize(group)).error <= allowed:
            return found
    return quantize(groups[-1])


def quantize_in_groups(
    weight_RC: torch.Tensor, bits: int, group: int, *, clip: bool = True, signed: bool = True
) -> QuantizedMatrix:
    """Quantizes with a given group, by `round_matrix`."""
    columns = weight_RC.shape[1]
    padded = torch.nn.functional.pad(weight_RC.float(), (0, -columns % group))
    codes, scales = round_matrix(padded, bits, group, clip=clip, signed=signed)
    return QuantizedMatrix(codes, scales, group, bits, columns, relative_error(padded, codes, scales))


def round_matrix(
    weight_RC: torch.Tensor, bits: int, group: int | None = None, *, clip: bool = True, signed: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns codes and scales whose product is close to the matrix.

    Codes are int8 [R, C]; scales are float32 [R, G] of bfloat16's digits.

    Args:
        weight_RC: the matrix.
        bits: of a code, 2 to 8.
        group: columns that share a scale, a divisor of C; None: all of a row.
        clip: try scales that clip the largest values, too.
        signed: try scales of either sign that put the largest magnitude at -2^(bits-1), too, the code that
            symmetric rounding wastes.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"{bits} bits")
    rows, columns = weight_RC.shape
    groups_RGK = weight_RC.float().reshape(rows, -1, group or columns)
    clipping = _CLIPPING if clip else _CLIPPING[:1]
    found = [_round(part, bits, clipping, signed) for part in groups_RGK.split(max(1, _BLOCK // columns))]
    codes_RGK, scales_RG = (torch.cat(parts) for parts in zip(*found, strict=True))
    return codes_RGK.view(rows, columns), scales_RG


def best_scales(
    weight_RC: torch.Tensor, bits: int, group: int, weights_C: torch.Tensor, signed: bool = True
) -> torch.Tensor:
    """Returns scales, float32 [R, G], with the least squared rounding error; columns count by `weights_C`.

    They may be negative if `signed`, as in `round_matrix`.
    """
    rows, columns = weight_RC.shape
    groups_RGK, weights_GK = weight_RC.reshape(rows, -1, group), weights_C.reshape(-1, group)
    parts = groups_RGK.split(max(1, _BLOCK // columns))
    return torch.cat([_best_scales(p, bits, _CLIPPING, signed, weights_GK) for p in parts]).squeeze(-1)


def relative_error(weight_RC: torch.Tensor, codes_RC: torch.Tensor, scales_RG: torch.Tensor) -> float:
    """Returns the norm of the rounding error over the norm of the matrix."""
    values = scales_RG.float().repeat_interleave(codes_RC.shape[1] // scales_RG.shape[1], 1).mul_(codes_RC)
    return float((values - weight_RC).norm() / weight_RC.norm().clamp(min=1e-30))


def _round(
    groups_RGK: torch.Tensor, bits: int, clipping: tuple[float, ...], signed: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    scales = _best_scales(groups_RGK, bits, clipping, signed)
    codes = _codes(groups_RGK, scales, 2 ** (bits - 1))
    return codes.to(torch.int8), scales.squeeze(-1)


def _best_scales(
    groups_RGK: torch.Tensor,
    bits: int,
    clipping: tuple[float, ...],
    signed: bool,
    weights_GK: torch.Tensor | None = None,
) -> torch.Tensor:
    """Returns those of the tried scales [R, G, 1] with the least squared error, weighted if that is asked."""
    half = 2 ** (bits - 1)
    scales, least = torch.ones_like(groups_RGK[..., :1]), torch.full_like(groups_RGK[..., :1], torch.inf)
    for tried in _scales(groups_RGK, half, clipping, signed):
        squares = _codes(groups_RGK, tried, half).mul_(tried).sub_(groups_RGK).square_()
        error = (squares if weights_GK is None else squares.mul_(weights_GK)).sum(-1, keepdim=True)
        scales, least = torch.where(error < least, tried, scales), torch.minimum(error, least)
    return scales


def _codes(groups_RGK: torch.Tensor, scales_RG1: torch.Tensor, half: int) -> torch.Tensor:
    return (groups_RGK / scales_RG1).round_().clamp_(-half, half - 1)


def _scales(
    groups_RGK: torch.Tensor, half: int, clipping: tuple[float, ...], signed: bool
) -> Iterator[torch.Tensor]:
    largest = groups_RGK.abs().amax(-1, keepdim=True)
    ends = [largest / (half - 1)]
    if signed:
        ends.append(groups_RGK.gather(-1, groups_RGK.abs().argmax(-1, keepdim=True)) / -half)
    for end in ends:
        for share in clipping:
            tried = (end * share).bfloat16().float()
            yield tried.where(tried != 0, 1.0)  # a group of zeros
