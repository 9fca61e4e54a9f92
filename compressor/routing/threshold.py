"""The probability from which a prompt goes to a domain's subnet, and below which to the general one."""

from __future__ import annotations

import torch

_GIVEN_AWAY = 0.02
"""The share of the router's gain that may be given up for a higher threshold."""
NEVER = 2.0
"""A threshold that no probability reaches."""


def choose_threshold(
    probabilities_NC: torch.Tensor, labels_N: torch.Tensor, weights_N: torch.Tensor, losses_SC: torch.Tensor
) -> float:
    """Returns the highest threshold whose expected loss is next to the least.

    Text of no domain is not at hand to choose by. The highest threshold leaves most of it to the general
    subnet.

    Args:
        probabilities_NC: Of excerpts that the classifier was not fitted on.
        labels_N: Their domains.
        weights_N: Theirs; the sum is 1.
        losses_SC: The loss of the general subnet (row 0) and of each domain's on the text of each domain.

    Returns:
        The threshold; `NEVER` where the general subnet alone loses least.
    """
    confidence, choice = probabilities_NC.max(-1)
    general, routed = losses_SC[0, labels_N], losses_SC[1 + choice, labels_N]
    order = confidence.argsort(descending=True)
    gains = (weights_N * (general - routed).to(weights_N))[order].cumsum(0)
    best = float(gains.max())
    if best <= 0:
        return NEVER
    first = int(torch.nonzero(gains >= (1 - _GIVEN_AWAY) * best)[0])
    return float(confidence[order][first])
