"""The table of samplers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.tune.curves import best_so_far, quartiles

_AFTER = (4, 8, 12, 16, 24)


def table(document: Mapping[str, Any]) -> str:
    """Returns it in Markdown: medians above the least loss of all, with quartiles, after some trials."""
    losses, least = document["losses"], document["least"]
    after = [trial for trial in _AFTER if trial <= document["trials"]]
    lines = [
        f"default {document['default']:.4f}, least {least:.4f} nats per token over dense",
        "",
        "| sampler | " + " | ".join(f"after {trial}" for trial in after) + " | ahead of random, level |",
        "|---|" + "---:|" * (len(after) + 1),
    ]
    random = best_so_far(losses["random"])[:, -1]
    for name, found in losses.items():
        low, middle, high = quartiles(found)
        cells = [
            f"{middle[t - 1] - least:.4f} ({low[t - 1] - least:.4f} to {high[t - 1] - least:.4f})"
            for t in after
        ]
        mine = best_so_far(found)[:, -1]
        ahead = f"{(mine < random).sum()}, {(mine == random).sum()} of {len(mine)}"
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {'' if name == 'random' else ahead} |")
    return "\n".join(lines)
