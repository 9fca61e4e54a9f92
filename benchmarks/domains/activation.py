"""Read-ME's masks (arXiv 2410.19123, Sec. 3.1): the FFN channels with the largest activations on a domain.

The mean magnitude of what each down projection reads is taken over the text of a domain; the channels with
the largest ones stay, as many in every layer. Attention stays whole, and no weight changes. The shared core
of several domains is the product of their masks. Shapes: L layers, F channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from lathe.artefact.errors import UserError

_ROWS = 4
_SUFFIX = ".mlp.down_proj"


@torch.inference_mode()
def mean_activations(model: Any, windows_BT: torch.Tensor) -> torch.Tensor:
    """Returns the mean magnitude of every input channel of every down projection, [L, F].

    Args:
        model: As transformers loads it.
        windows_BT: Tokens.

    Raises:
        UserError: the model has no FFNs that are known here.
    """
    modules = _modules(model)
    sums = [torch.zeros(module.in_features, dtype=torch.float64) for module in modules]

    def add(index: int) -> Any:
        def hook(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            sums[index] += inputs[0].abs().double().flatten(0, -2).sum(0)

        return hook

    handles = [module.register_forward_pre_hook(add(index)) for index, module in enumerate(modules)]
    try:
        for tokens in windows_BT.split(_ROWS):
            model(tokens, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(sums) / windows_BT.numel()


def top_channels(activations_LF: torch.Tensor, width: int) -> torch.Tensor:
    """Returns masks [L, F] of the `width` channels of every layer with the largest activations."""
    kept = activations_LF.topk(width, -1).indices
    return torch.zeros_like(activations_LF, dtype=torch.bool).scatter_(-1, kept, True)


@contextmanager
def masked(model: Any, masks_LF: torch.Tensor) -> Iterator[Any]:
    """Lets a model compute without the channels that masks leave out, as one that has none would."""

    def zero(mask_F: torch.Tensor) -> Any:
        return lambda _module, inputs: (inputs[0] * mask_F.to(inputs[0]),)

    modules = _modules(model)
    handles = [m.register_forward_pre_hook(zero(mask)) for m, mask in zip(modules, masks_LF, strict=True)]
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def _modules(model: Any) -> Sequence[Any]:
    """Returns the down projections, layer by layer.

    Raises:
        UserError: there is not one for each layer.
    """
    found = [module for name, module in model.named_modules() if name.endswith(_SUFFIX)]
    if len(found) != model.config.num_hidden_layers:
        raise UserError(f"a {model.config.model_type} has no {_SUFFIX[1:]} in every layer")
    return found
