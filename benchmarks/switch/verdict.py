"""What has to be shown, and the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.switch.ramp import DENSE, SMALLEST, SWITCHING

MOST_A_MINUTE = 10
"""Switches, with few subnets and a ramp."""
REFUSED = "http_429"

Rows = Mapping[str, Mapping[str, Any]]


def verdict(rows: Rows) -> dict[str, bool]:
    """Returns what the rows show, by what was to be shown."""
    dense, smallest, switching = (rows[name] for name in (DENSE, SMALLEST, SWITCHING))
    losses = switching["mean_loss"], smallest["mean_loss"]
    switches = sum(switching["switches"].values())
    lost = sum(count for kind, count in switching["errors"].items() if kind != REFUSED)
    return {
        "switching keeps 0.95 within limits": switching["within"] >= 0.95,
        "dense keeps fewer than half": dense["within"] < 0.5,
        "switching has less loss than the smallest": None not in losses and losses[0] < losses[1],
        "no request is lost": not lost,
        f"at most {MOST_A_MINUTE} switches a minute": switches
        <= MOST_A_MINUTE * switching["duration_s"] / 60,
    }


def table(rows: Rows) -> str:
    """Returns a table in Markdown."""
    lines = [
        "| server | requests | within limits | TPOT | TTFT | tokens/s | mean loss increase | switches |",
        "|---" * 8 + "|",
    ]
    for name, row in rows.items():
        loss = "?" if row["mean_loss"] is None else f"{row['mean_loss']:.4f}"
        switches = sum(row.get("switches", {}).values())
        each = row["within_each"]
        lines.append(
            f"| {name} | {row['requests']} | {row['within']:.1%} | {each['tpot']:.1%} | {each['ttft']:.1%} "
            f"| {row['output_tokens_per_second']:.1f} | {loss} | {switches:.0f} |"
        )
    return "\n".join(lines)
