"""The table of mixtures of widths and bits that `lathe plan` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def print_mixtures(advice: Mapping[str, Any], console: Console) -> None:
    """Prints what widths and bits together would reach at several speed-ups."""
    title = f"{advice['model']}: widths and bits together, a forecast"
    table = Table(title=title, title_justify="left", caption_justify="left")
    for name in ("speed-up", "ms", "kept", "bits", "MiB", "KL", "attention", "FFN", "head"):
        table.add_column(name, justify="left" if name in ("attention", "FFN", "head") else "right")
    for row in advice["mixtures"]:
        table.add_row(f"{row['speedup']:g}x", *(_mixture(row) if row["plan"] else ("-",)))
    table.caption = (
        "ms: by a few timed models, - if out of reach; kept: parameters of the decoder; bits: of each, on "
        "average; KL: to dense, nats per token, from what reconstruction may leave up; then blocks by bits"
    )
    console.print(table)


def _mixture(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{row['predicted_ms']:.3g}",
        f"{row['decoder_parameters_kept']:.0%}",
        f"{row['bits_per_weight']:.1f}",
        f"{row['weight_bytes']['subnet'] / 2**20:.0f}",
        f"{row['kl']['least']:.2f} to {row['kl']['most']:.2f}",
        _named(row["blocks"]["attention"]),
        _named(row["blocks"]["ffn"]),
        str(row["plan"].get("head_bits", 0) or "float"),
    )


def _named(formats: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in formats.items())
