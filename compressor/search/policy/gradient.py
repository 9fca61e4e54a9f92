"""The policy gradient of the expected loss of masks, from forward passes alone.

Gao et al., Bypass Back-propagation (arXiv 2406.10576): of the losses L_k of K masks m_k ~ Bernoulli(s),

    g = sum_k (L_k - b) (m_k - s) / sqrt(s (1 - s)) / (K - 1)

estimates sqrt(s (1 - s)) dE[L]/ds. Here the baseline b is the mean of the K losses, which are of the same
text: then the estimate has no bias, and what one text is harder than another cancels. A unit of a block that
a mask drops has no part in the loss, and counts nothing there: no bias either, and less noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_EPSILON = 1e-7


def policy_gradient(losses: Sequence[float], masks: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns the estimate g, [X, 1 + U].

    Args:
        losses: [K] of the same text, K > 1.
        masks: [K, X, 1 + U] bool, whole blocks in front.
        probabilities: [X, 1 + U], what the masks were drawn by.
    """
    values = np.array(losses)
    spread = np.sqrt((probabilities + _EPSILON) * (1 - probabilities + _EPSILON))
    scores = (masks - probabilities) / spread
    scores[:, :, 1:] *= masks[:, :, :1]
    estimate: np.ndarray = np.tensordot(values - values.mean(), scores, 1) / (len(values) - 1)
    return estimate
