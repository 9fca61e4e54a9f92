"""Products of matrices in bfloat16, where the processor has instructions for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch


def fast_products(device: torch.device) -> AbstractContextManager[object]:
    """Returns a context in which products are of bfloat16 factors, with float32 sums, where that is faster.

    What it makes is right to about three digits, which is enough for gradients that are summed over many
    tokens, and not for differences of nearly equal values.
    """
    return torch.autocast(device.type, torch.bfloat16) if has_bfloat16(device) else nullcontext()


def products(device: torch.device, bfloat16: bool) -> AbstractContextManager[object]:
    """Returns a context with fast products where `bfloat16` allows them, with exact ones elsewhere."""
    return fast_products(device) if bfloat16 else nullcontext()


@contextmanager
def rounded_factors(device: torch.device, bfloat16: bool = True) -> Iterator[None]:
    """Rounds the factors of float32 products to bfloat16 where that is faster and `bfloat16` allows it.

    Sums and results stay float32, so that X^T X is the Gram matrix of the rounded X, and positive
    semidefinite; their factors are right to about 1 in 400. It holds for the whole process, and for
    processors alone.
    """
    matmul: Any = getattr(torch.backends.mkldnn, "matmul", None)  # not typed
    if matmul is None or device.type != "cpu" or not (bfloat16 and has_bfloat16(device)):
        yield
        return
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def as_factor(weight: torch.Tensor) -> torch.Tensor:
    """Returns a weight in the type that products have here.

    `torch.autocast` converts a weight without gradient for every product anew.
    """
    device = weight.device.type
    return weight.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else weight


def has_bfloat16(device: torch.device) -> bool:
    """Tells whether a device multiplies matrices of bfloat16 faster than those of float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    capabilities: dict[str, object] = getattr(
        torch.cpu, "get_capabilities", dict
    )()  # PyTorch 2.9 may not tell
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
