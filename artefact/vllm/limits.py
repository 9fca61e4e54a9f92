"""Head sizes and widths that vLLM has kernels for."""

from __future__ import annotations

from lathe.artefact.errors import UserError
from lathe.artefact.modeling.vllm_plugin import CPU_HEAD_SIZES
from lathe.artefact.plan import Plan
from lathe.artefact.width_rules import WidthRules


def check_head_size(head_dim: int, gpu: bool) -> None:
    """Checks that vLLM has an attention kernel for this head size, on a GPU or on a CPU.

    Raises:
        UserError: it has none; names the sizes that it has.
    """
    if gpu and not ((head_dim % 8 == 0 and head_dim <= 256) or head_dim == 512):
        raise UserError(
            f"vLLM has no GPU attention kernel for heads of size {head_dim}",
            "It has them for the multiples of 8 up to 256, and for 512.",
        )
    if not gpu and head_dim not in CPU_HEAD_SIZES:
        sizes = ", ".join(map(str, CPU_HEAD_SIZES))
        raise UserError(
            f"vLLM has no CPU attention kernel for heads of size {head_dim}", f"It has them for {sizes}."
        )


def check_parallel(plan: Plan, devices: int) -> None:
    """Checks that `devices` can share every layer as vLLM does.

    Raises:
        UserError: as `WidthRules.check`.
    """
    WidthRules(devices).check(plan)
