"""Wording that the terminal and the page share: widths, bits, and quantized weights."""

from __future__ import annotations

from collections.abc import Mapping

from lathe.artefact.plan import BLOCK_KINDS
from lathe.artefact.report_format import PruningLimit, Quantization, Report

_WIDTHS = {"attention": "kv_heads", "ffn": "ffn"}


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


def bits_of(layer: Mapping[str, int], kind: str) -> int:
    """Returns the bits of a block's weights in a layer of the report; 0: they are not rounded."""
    return layer.get(f"{kind}_bits", 0)


def bits_in(report: Report) -> list[int]:
    """Returns the bits that the search chose for weights, 0 (not rounded) first; none where it chose none."""
    found = {
        bits_of(layer, kind) for layer in report["layers"] for kind in BLOCK_KINDS if layer[_WIDTHS[kind]]
    }
    found.add(report.get("head_bits", 0))
    return sorted(found, key=lambda bits: -(bits or 32)) if any(found) else []


def format_of(bits: int, floats: str = "float32") -> str:
    """Returns what weights of so many bits are called; `floats`: those that are not rounded."""
    return f"{bits} bit" if bits else floats


def floats_of(report: Report) -> str:
    """Returns what weights that are not rounded are called: graphs hold them as float32, vLLM as they are."""
    as_they_are = "float" in report.get("quantization", {}).get("formats", {})
    return "the checkpoint's type" if as_they_are else "float32"


def with_bits(width: str, bits: int) -> str:
    """Returns a width, with the bits of its weights where they are rounded: `512 x 8 bit`."""
    return f"{width} x {format_of(bits)}" if bits else width


def scheme_of(stored: Quantization) -> str:
    """Returns what the format of quantized weights is called; of several, that they are mixed."""
    return f"{', '.join(stored['formats'])} by block" if "formats" in stored else stored["scheme"]


def rounding_alone(report: Report) -> str | None:
    """Returns a sentence where weights are rounded and no layer is narrower than the dense model's."""
    dense = report["dense_layer"]
    whole = all({**layer, **dense} == layer for layer in report["layers"])
    return (
        "Rounding alone is enough: no layer is narrower than it was." if bits_in(report) and whole else None
    )


def quantized_weights(report: Report) -> str | None:
    """Returns a sentence about quantized weights; None where the weights are not quantized."""
    if "quantization" not in report:
        return None
    stored = report["quantization"]
    size = f"Stored as {scheme_of(stored)}, {stored['weight_bytes']['after'] / 2**20:.2f} MiB"
    if "perplexity" not in stored:
        return f"{size}; all other figures are from before quantization."
    before = report["perplexity"]
    dense = "" if "formats" in stored else f"{before['dense']:.2f} (dense), "
    return f"{size}; before quantization, perplexity is {dense}{before['subnet']:.2f} (subnet)."


def rounded_cache(report: Report) -> str | None:
    """Returns a sentence about a KV cache that is not float32; None where it is."""
    cache = report.get("kv_cache")
    if cache is None:
        return None
    kept = f"The KV cache is {cache['type']}"
    if "loss" not in cache:
        return f"{kept}."
    moved = cache["loss"]["int8"] - cache["loss"]["float32"]
    return f"{kept}, which changes the loss by {moved:+.4f} nats per token."


def zeros_in_weights(report: Report) -> str | None:
    """Returns a sentence about the pattern of the weights; None where they have none."""
    if "pattern" not in report:
        return None
    found = report["pattern"]
    return (
        f"Weights have the pattern {found['name']} ({found['method']}): {found['zeros']:.0%} of the layers' "
        "matrices are zeros. They are stored and multiplied like other weights: no file is smaller, and ONNX "
        "Runtime, llama.cpp, vLLM and PyTorch get no faster by them."
    )


def limit_of_pruning(limit: PruningLimit) -> str:
    """Returns a sentence, without its stop, about the most that a plan can reach."""
    head, share = f"{limit['head_share']:.0%}", f"{limit['share']:.0%}"
    return (
        f"the head alone takes {head} of a step, with fixed costs {share}, so no plan gets faster than "
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
