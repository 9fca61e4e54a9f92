"""Checks of a quantized checkpoint, which vLLM would serve with damaged scales without a word.

This file is shipped inside artefacts and imports nothing of Lathe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

PACKED = "pack-quantized"
INTEGER_FORMATS = (PACKED, "int-quantized")
_WORD = 32
"""Bits of a word that codes are packed into."""
_Codes = tuple[bool, torch.Size]
"""Whether codes are packed, and the shape that they are stored in."""
_DAMAGED = "the checkpoint is damaged: export it again"


def refuse_formats(quant_config: Any, cpu: bool) -> None:
    """Refuses integer formats that vLLM has no kernel for.

    Args:
        quant_config: vLLM's reading of `quantization_config`, or None.
        cpu: Whether the CPU build serves.

    Raises:
        ValueError: Names the first such format, and what there is.
    """
    for target, scheme in _schemes(quant_config).items():
        weights, form = scheme["weights"], _form(scheme, quant_config)
        if weights.type != "int":
            continue
        if form not in INTEGER_FORMATS:
            known = " and ".join(INTEGER_FORMATS)
            raise ValueError(f"{target} has integer weights in the format `{form}`; vLLM knows {known}")
        rounded = scheme.get("input_activations") is not None
        if cpu and (form, weights.num_bits, rounded) not in (
            (PACKED, 4, False),
            ("int-quantized", 8, True),
        ):
            raise ValueError(
                f"vLLM has no CPU kernel for {target} in {weights.num_bits} bits, {form}, with "
                f"{'rounded' if rounded else 'float'} activations; it has 4 bits, pack-quantized, with float "
                "ones, and 8 bits, int-quantized, with rounded ones"
            )


def checked(
    weights: Iterable[tuple[str, torch.Tensor]], quant_config: Any
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields weights by name as they come, after a look at the scales of integer codes.

    Raises:
        ValueError: Scales are not finite positive numbers, or not as many as their codes need.
    """
    kinds = {
        (_form(scheme, quant_config) == PACKED, scheme["weights"].num_bits, scheme["weights"].group_size)
        for scheme in _schemes(quant_config).values()
        if scheme["weights"].type == "int"
    }
    codes: dict[str, _Codes] = {}
    scales: dict[str, torch.Size] = {}
    for name, tensor in weights:
        module, _, kind = name.rpartition(".")
        if kinds and kind == "weight_scale" and tensor.is_floating_point():
            _check_values(name, tensor)
            scales[module] = tensor.shape
        elif kinds and tensor.dtype == (torch.int32 if kind == "weight_packed" else torch.int8):
            codes[module] = (tensor.dtype == torch.int32, tensor.shape)
        if module in codes and module in scales:
            _check_shapes(module, codes.pop(module), scales.pop(module), kinds)
        yield name, tensor


def _form(scheme: Any, quant_config: Any) -> str:
    return str(scheme.get("format") or quant_config.quant_format)


def _schemes(quant_config: Any) -> dict[str, Any]:
    """Returns the schemes of a compressed-tensors checkpoint by target; none of other checkpoints."""
    found: dict[str, Any] = getattr(quant_config, "target_scheme_map", {})
    return found


def _check_values(name: str, scales: torch.Tensor) -> None:
    kinds = {
        "NaN": scales.isnan(),
        "infinite": scales.isinf(),
        "negative": scales < 0,
        "zero": scales == 0,
    }
    found = [kind for kind, wrong in kinds.items() if wrong.any()]
    if found:
        raise ValueError(f"`{name}` has scales that are {' or '.join(found)}: {_DAMAGED}")


def _check_shapes(
    module: str, codes: _Codes, scales: torch.Size, kinds: Iterable[tuple[bool, int, int | None]]
) -> None:
    """Checks the number of scales; formats with one for a whole matrix have no second dimension."""
    packed, shape = codes
    if len(scales) != 2 or len(shape) != 2:
        return
    needed = set()
    for in_words, bits, group in kinds:
        if in_words == packed:
            columns = shape[1] * _WORD // bits if packed else shape[1]
            needed.add(columns // group if group else 1)
    if scales[0] != shape[0] or scales[1] not in needed:
        raise ValueError(
            f"`{module}` has {scales[0]} x {scales[1]} scales for {shape[0]} rows of codes: {_DAMAGED}"
        )
