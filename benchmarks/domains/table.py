"""The tables of a comparison of domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

PAIRS = {"own subnet": "general subnet", "own masks": "masks of all text"}
"""What is made for a domain, and what is made for all text in the same way."""


def table(rows: Sequence[dict[str, Any]], masks: Mapping[str, int], subnets: Mapping[str, Any]) -> str:
    """Returns tables in Markdown: loss increases by domain, and what the variants of domains share.

    Args:
        rows: One for each variant and domain.
        masks: How many channels the masks of a domain keep, and those of all.
        subnets: How many the subnet of each domain keeps, and those of all.
    """
    domains = dict.fromkeys(row["domain"] for row in rows)
    found = {(row["variant"], row["domain"]): row for row in rows}
    variants = dict.fromkeys(row["variant"] for row in rows)
    lines = [f"| loss increase | ms | {' | '.join(domains)} | mean |", "|---" * (len(domains) + 3) + "|"]
    for variant in variants:
        own = [found[variant, domain] for domain in domains]
        cells = [f"{row['increase']:.4f}" for row in own]
        ms = fmean(row["table_ms"] for row in own)
        mean = fmean(row["increase"] for row in own)
        lines.append(f"| {variant} | {ms:.3f} | {' | '.join(cells)} | {mean:.4f} |")
    for mine, general in PAIRS.items():
        shares = [found[mine, one]["increase"] / found[general, one]["increase"] for one in domains]
        cells = [f"{share:.2f}" for share in shares]
        lines.append(f"| {mine} / {general} | | {' | '.join(cells)} | {fmean(shares):.2f} |")
    kept = subnets["kept"].values()
    lines += [
        "",
        f"FFN channels of all domains: {subnets['core']:,} of {min(kept):,} to {max(kept):,} in subnets, "
        f"{masks['core']:,} of {masks['kept']:,} in masks",
    ]
    return "\n".join(lines)
