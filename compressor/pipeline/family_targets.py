"""Several targets of one run, each of which becomes a subnet of a family: names, and what they exclude."""

from __future__ import annotations

from typing import Any

from lathe.artefact.errors import UserError
from lathe.compressor.pipeline.compress_fields import OF_WIDTHS, CompressFields

_SCHEMES = (None, "int8", "int4")
"""What `--quantize` may be: all blocks of all plans have the same bits."""


def named_targets(options: CompressFields) -> dict[str, dict[str, Any]]:
    """Returns the field that says the target of each subnet, by the subnet's name, the widest first.

    It is empty where there is one target.
    """
    limits, factors = options.target_latency_ms, options.target_speedup
    if isinstance(limits, tuple):
        return {f"{ms:.12g}ms": {"target_latency_ms": ms} for ms in sorted(limits, reverse=True)}
    if isinstance(factors, tuple):
        return {f"{factor:.12g}x": {"target_speedup": factor} for factor in sorted(factors)}
    return {}


def check_family(options: CompressFields) -> None:
    """Checks what goes with several targets.

    Raises:
        UserError: two are the same, or another option excludes them.
    """
    if not options.several_targets:
        return
    for flag, targets in (
        ("--target-latency", options.target_latency_ms),
        ("--target-speedup", options.target_speedup),
    ):
        if isinstance(targets, tuple) and len(set(targets)) < len(targets):
            raise UserError(
                f"{flag} has a target twice", "Give each subnet of the family a target of its own."
            )
    for flag, given, why in _excluded(options):
        if given:
            raise UserError(f"{flag} and several targets of latency cannot be combined", why)


def _excluded(options: CompressFields) -> list[tuple[str, bool, str]]:
    """Returns (flag, whether it is given, what to do) of what several targets exclude."""
    alone = "Give one target, or leave it out."
    return [
        ("--front", options.front, alone),
        ("--plan", options.plan is not None, alone),
        ("--max-perplexity-increase", options.perplexity_increase is not None, alone),
        (
            "--export genai",
            "genai" in options.export,
            "Add it afterwards: lathe export OUT/plans/NAME.",
        ),
        ("--pattern", options.pattern is not None, alone),
        ("--force", options.force, "A target that the dense model meets is no subnet's: leave that out."),
        (f"--bits {options.bits}", options.bits == "auto", "Subnets share rows: give --bits 8, 4 or 16."),
        (f"--quantize {options.quantize}", options.quantize not in _SCHEMES, "Give --quantize int8 or int4."),
        (f"--method {options.method}", options.method in OF_WIDTHS, "Give lathe, fast or quick."),
        ("--evaluations", (options.evaluations or 1) > 1, "Subnets come from one table: leave it out."),
    ]
