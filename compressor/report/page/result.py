"""The result at a glance: a verdict, a sentence, and dense against subnet in a few numbers."""

from __future__ import annotations

from dataclasses import dataclass

from lathe.artefact.report_format import DenseAndSubnet, served_perplexity, served_weights
from lathe.compressor.report.page.section import Facts, ms, percent
from lathe.compressor.report.wording import (
    kept_vocabulary,
    quantized_weights,
    rounded_cache,
    rounding_alone,
    zeros_in_weights,
)


@dataclass(frozen=True)
class Tile:
    """One number of dense and subnet; `share` is their ratio, None where dense has nothing."""

    name: str
    dense: str
    subnet: str
    change: str
    share: float | None


@dataclass(frozen=True)
class Result:
    """The result at a glance; `css` is the class of the verdict: good, bad or open."""

    css: str
    verdict: str
    headline: str
    sentence: str
    tiles: list[Tile]


def result(facts: Facts) -> Result:
    """Returns the result of a report."""
    css, verdict = _verdict(facts)
    return Result(css, verdict, _headline(facts), _sentence(facts), _tiles(facts))


def _verdict(facts: Facts) -> tuple[str, str]:
    met = facts.report.get("met")
    if met is None:
        return "open", "not measured here: the target is of another machine"
    timed = facts.latency.get("target_ms") is not None
    if met:
        return "good", "latency target met, as measured" if timed else "target met"
    return "bad", "slower than the target, as measured"


def _headline(facts: Facts) -> str:
    speedup, weights = facts.latency.get("speedup"), served_weights(facts.report)
    smaller = f"{percent(1 - weights['subnet'] / weights['dense'])} smaller"
    return f"{speedup:.2f}× as fast, {smaller}" if speedup else smaller


def _sentence(facts: Facts) -> str:
    report, latency = facts.report, facts.latency
    served, text = served_perplexity(report), report["perplexity"]["text"]
    change = served["subnet"] / served["dense"] - 1
    way = "rises" if change >= 0 else "falls"
    parts = [f"Perplexity {way} by {percent(abs(change))} on {text}."]
    if latency.get("target_ms") is not None:
        asked = f"A {facts.metric} of at most {ms(latency['target_ms'])} was asked for"
        allowed = f", {latency['tolerance']:.0%} tolerance" if latency.get("tolerance") else ""
        got = latency.get("measured_ms")
        found = f"{ms(got)} measured" if got else f"{ms(latency['predicted_ms'])} predicted"
        parts.insert(0, f"{asked}{allowed}; {found}.")
    notes = (kept_vocabulary, rounding_alone, zeros_in_weights, quantized_weights, rounded_cache)
    parts += [said for note in notes if (said := note(report))]
    return " ".join(parts)


def _tiles(facts: Facts) -> list[Tile]:
    report, medians = facts.report, facts.medians
    tiles = [] if medians is None else [_tile(f"{facts.metric.capitalize()}, ms", medians, 1, 3)]
    tiles += [
        _tile("Perplexity", served_perplexity(report), 1, 4),
        *_by_byte(facts),
        _tile("Weights, MiB", served_weights(report), 2**20, 3),
        _tile("KV cache per token, KiB", report["kv_bytes_per_token"], 2**10, 3),
    ]
    return tiles


def _by_byte(facts: Facts) -> list[Tile]:
    """Returns the loss by byte of text, where the vocabulary was cut."""
    cut = facts.report.get("vocabulary")
    return [_tile("Loss, nats per byte", cut["loss_per_byte"], 1, 4)] if cut else []


def _tile(name: str, values: DenseAndSubnet, unit: float, digits: int) -> Tile:
    dense, subnet = values["dense"] / unit, values["subnet"] / unit
    share = subnet / dense if dense else None
    change = "" if share is None else f"{100 * (share - 1):+.1f} %"
    return Tile(name, f"{dense:,.{digits}g}", f"{subnet:,.{digits}g}", change, share)
