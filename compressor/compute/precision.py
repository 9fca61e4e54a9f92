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
    semidefinite; factors are right to about 1 in 400. It holds for the whole process.
    """
    if not (bfloat16 and rounds_factors(device)):
        yield
        return
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
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


def rounds_factors(device: torch.device) -> bool:
    """Tells whether `rounded_factors` rounds anything on a device.

    oneDNN does it with AMX alone. On other processors with bfloat16 it takes the setting, and is slower than
    PyTorch's own float32 products.
    """
    if device.type != "cpu" or not hasattr(torch.backends.mkldnn, "matmul"):
        return False
    return has_bfloat16(device) and bool(_capabilities().get("amx_bf16"))


def has_bfloat16(device: torch.device) -> bool:
    """Tells whether a device multiplies matrices of bfloat16 faster than those of float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    capabilities = _capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _capabilities() -> dict[str, object]:
    capabilities: dict[str, object] = getattr(
        torch.cpu, "get_capabilities", dict
    )()  # PyTorch 2.9 may not tell
    return capabilities
