"""The probabilities from which prompts go to domains' subnets, and below which to the general one."""

from __future__ import annotations

import torch

_GIVEN_AWAY = 0.02
"""The share of the router's gain that may be given up for a higher threshold."""
NEVER = 2.0
"""A threshold that no probability reaches."""


def choose_thresholds(
    probabilities_NC: torch.Tensor, labels_N: torch.Tensor, weights_N: torch.Tensor, losses_SC: torch.Tensor
) -> tuple[float, ...]:
    """Returns for each domain the highest threshold whose expected loss is next to the least.

    Text of no domain is not at hand to choose by. The highest threshold leaves most of it to the general
    subnet.

    Args:
        probabilities_NC: Of excerpts that the classifier was not fitted on.
        labels_N: Their domains.
        weights_N: Theirs; the sum is 1.
        losses_SC: The loss of the general subnet (row 0) and of each domain's on the text of each domain.

    Returns:
        The thresholds; `NEVER` where the general subnet loses less than that of the domain.
    """
    confidence, choice = probabilities_NC.max(-1)
    general, routed = losses_SC[0, labels_N], losses_SC[1 + choice, labels_N]
    gains = weights_N * (general - routed).to(weights_N)
    return tuple(
        _threshold(confidence[choice == domain], gains[choice == domain])
        for domain in range(probabilities_NC.shape[1])
    )


def _threshold(confidence_N: torch.Tensor, gains_N: torch.Tensor) -> float:
    """Returns the threshold for prompts of one likeliest domain, by what each gains if it goes there."""
    order = confidence_N.argsort(descending=True)
    gained = gains_N[order].cumsum(0)
    if not len(gained) or float(gained.max()) <= 0:
        return NEVER
    first = int(torch.nonzero(gained >= (1 - _GIVEN_AWAY) * gained.max())[0])
    return float(confidence_N[order][first])
