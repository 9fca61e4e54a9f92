"""Wording that the terminal and the page share: widths, and quantized weights."""

from __future__ import annotations

from collections.abc import Mapping

from lathe.artefact.report_format import PruningLimit, Quantization, Report


def channels(layer: Mapping[str, int], form: str = "") -> str:
    """Returns an FFN's channels in words; with experts, how many experts of how many channels.

    Args:
        layer: A layer of the report.
        form: The format of numbers.
    """
    width = format(layer["ffn"], form)
    return f"{layer['experts']} x {width}" if "experts" in layer else width


def channel_count(layer: Mapping[str, int]) -> int:
    """Returns the number of FFN channels, those of all experts together."""
    return layer["ffn"] * layer.get("experts", 1)


def scheme_of(stored: Quantization) -> str:
    """Returns what the format of quantized weights is called; of several, that they are mixed."""
    return f"{', '.join(stored['formats'])} by block" if "formats" in stored else stored["scheme"]


def quantized_weights(report: Report) -> str | None:
    """Returns a sentence about quantized weights; None where the weights are not quantized."""
    if "quantization" not in report:
        return None
    stored = report["quantization"]
    size = f"Stored as {scheme_of(stored)}, {stored['weight_bytes']['after'] / 2**20:.2f} MiB"
    if "perplexity" not in stored:
        return f"{size}; all other figures are from before quantization."
    after = stored["perplexity"]
    return (
        f"{size}: perplexity {after['dense']:.2f} (dense), {after['subnet']:.2f} (subnet) after quantization."
    )


def limit_of_pruning(limit: PruningLimit) -> str:
    """Returns a sentence, without its stop, about the most that pruning can reach."""
    head, share = f"{limit['head_share']:.0%}", f"{limit['share']:.0%}"
    return (
        f"the head alone takes {head} of a step, with fixed costs {share}, so pruning can reach at most "
        f"{limit['speedup']:.3g}x"
    )


def sentence(text: str) -> str:
    """Returns a text with a capital and a stop."""
    return f"{text[0].upper()}{text[1:]}."


def kept_vocabulary(report: Report) -> str | None:
    """Returns a sentence about a cut vocabulary; None where it is whole."""
    if "vocabulary" not in report:
        return None
    found = report["vocabulary"]
    loss = found["loss_per_byte"]
    return (
        f"Vocabulary: {found['rows']['subnet']:,} of {found['rows']['dense']:,} tokens, those that "
        f"{found['text']} needs. Perplexities are over these tokens; by byte of text, the loss is "
        f"{loss['dense']:.4f} nats (dense), {loss['cut']:.4f} (dense with these tokens only) and "
        f"{loss['subnet']:.4f} (subnet)."
    )
