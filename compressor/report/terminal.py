"""Tables for the terminal: of a report, a preflight, a forecast, a front and an advice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from lathe.artefact.report_format import DenseAndSubnet, Report, served_perplexity, served_weights
from lathe.compressor.report.wording import (
    bits_in,
    bits_of,
    channel_count,
    channels,
    floats_of,
    format_of,
    kept_vocabulary,
    limit_of_pruning,
    quantized_weights,
    rounded_cache,
    rounding_alone,
    sentence,
    with_bits,
    zeros_in_weights,
)

_BAR = 10
_MODELS: tuple[Literal["dense"], Literal["subnet"]] = ("dense", "subnet")
_LATENCIES = ("target_ms", "dense_ms", "floor_ms")


def print_report(report: Report, console: Console) -> None:
    """Prints the subnet's shape layer by layer, then dense against subnet."""
    console.print(_layers(report))
    console.print(_summary(report))
    console.print(_calibrated(report["calibration"]), highlight=False)
    if limit := report["latency"].get("pruning_limit"):
        console.print(sentence(limit_of_pruning(limit)), highlight=False)
    for note in (
        kept_vocabulary(report),
        rounding_alone(report),
        zeros_in_weights(report),
        quantized_weights(report),
        rounded_cache(report),
    ):
        if note:
            console.print(note, highlight=False)


def _calibrated(used: Mapping[str, Any]) -> str:
    asked = f" ({used['asked_tokens']:,} asked for)" if used.get("asked_tokens") else ""
    return f"calibrated on {used['tokens']:,} tokens of {used['text']}{asked}"


def print_preflight(preflight: Mapping[str, Any], console: Console) -> None:
    """Prints what a dry run found: the targets, and the memory and disk that the run needs."""
    table = Table(title=f"{preflight['model']}: {preflight['status']}", title_justify="left")
    for name in ("", "target", "dense", "floor"):
        table.add_column(name, justify="right" if name else "left")
    latency = preflight["latency"]
    if latency["dense_ms"] is not None:
        values = ("any" if latency[n] is None else f"{latency[n]:.4g}" for n in _LATENCIES)
        name = f"{latency['metric']} (ms{', estimate' if latency['estimate'] else ''})"
        table.add_row(name, *values)
    for target in preflight["targets"]:
        values = (f"{target[name]:,.0f}" for name in ("limit", "dense", "floor"))
        table.add_row(f"{target['name']} ({target['unit']})", *values)
    console.print(table)
    if cut := preflight["vocabulary"]:
        console.print(_cut(cut, latency), highlight=False)
    if limit := latency["pruning_limit"]:
        console.print(sentence(limit_of_pruning(limit)), highlight=False)
    console.print(_memory(preflight["memory"]))
    console.print(f"disk needed: {preflight['disk_bytes'] / 2**20:,.0f} MiB")
    console.print(_calibrated(preflight["calibration"]), highlight=False)


def _cut(cut: Mapping[str, Any], latency: Mapping[str, Any]) -> str:
    """Returns a sentence about the vocabulary that is kept."""
    rows, unpruned = cut["rows"], latency["unpruned_ms"]
    alone = "" if unpruned is None else f"; without pruning that takes {unpruned:.4g} ms"
    return f"vocabulary: {rows['subnet']:,} of {rows['dense']:,} tokens, for {cut['text']}{alone}"


def _memory(memory: Mapping[str, Any]) -> str:
    place = "kept on disk, layer by layer" if memory["on_disk"] else "all of it in memory"
    peak, limit = (f"{memory[f'{name}_bytes'] / 2**20:,.0f}" for name in ("peak", "limit"))
    free = memory["device_free_bytes"]
    device = "" if free is None else f" ({free / 2**20:,.0f} MiB are free on the device)"
    return f"memory needed: {peak} of {limit} MiB{device}, {place}"


def print_forecast(forecast: Mapping[str, Any], console: Console) -> None:
    """Prints what a run would give and need."""
    needs, plan = forecast["needs"], forecast["plan"]
    if plan is not None:
        factor, kept = forecast["perplexity_factor"], forecast["decoder_parameters_kept"]
        console.print(
            f"forecast: {kept:.0%} of the decoder's parameters, weights "
            f"{forecast['weight_bytes']['subnet'] / 2**20:.1f} MiB, "
            f"perplexity {factor['least']:.2g} to {factor['most']:.2g} times dense"
        )
    about, least, most = (max(1, round(needs["seconds"][name] / 60)) for name in ("about", "least", "most"))
    console.print(
        f"the run: about {about} min here ({least} to {most}), "
        f"{needs['memory_bytes'] / 2**30:.1f} GiB of memory"
    )


def print_front(front: Mapping[str, Any], console: Console) -> None:
    """Prints the plans of a front, from the fastest to dense."""
    workload = front["workload"]
    title = f"{front['model']}: {workload['metric']} and sensitivity, dense {front['dense_ms']:.4g} ms"
    title += f" ({front['estimate']})" if front["estimate"] else ""
    table = Table(title=title, title_justify="left")
    bits = ["bits per weight"] if any("bits_per_weight" in row for row in front["points"]) else []
    for name in ("plan", "ms", "speed-up", "parameters kept", *bits, "KL before the final reconstruction"):
        table.add_column(name, justify="right" if name != "plan" else "left")
    for row in front["points"]:
        speedup = front["dense_ms"] / row["predicted_ms"]
        table.add_row(
            row["plan"],
            f"{row['predicted_ms']:.4g}",
            f"{speedup:.2f}x",
            f"{row['decoder_parameters_kept']:.1%}",
            *(f"{row['bits_per_weight']:.1f}" for _ in bits),
            f"{row['damage']:.4f}",
        )
    console.print(table)


def print_advice(advice: Mapping[str, Any], console: Console) -> None:
    """Prints what to do for each size of weights: every choice with its quality, the best first."""
    table = Table(title=f"{advice['model']}: prune, quantize, or both", title_justify="left")
    for name in ("decoder weights", "MiB", "what to do", "KL to dense (nats/token)"):
        table.add_column(name, justify="right" if name[:2] in ("Mi", "KL") else "left")
    for row in advice["budgets"]:
        for rank, choice in enumerate(row["choices"]):
            budget = row["budget"] if rank == 0 else ""
            size = f"{choice['decoder_bytes'] / 2**20:.2f}"
            name = f"[bold]{choice['name']}[/bold]" if rank == 0 else choice["name"]
            table.add_row(budget, size, name, f"{choice['kl']:.4f}")
        table.add_section()
    console.print(table)
    others = advice["other_bytes_float16"] / 2**20
    console.print(f"Embeddings and head, the same for all: {others:.2f} MiB as float16.")


def _layers(report: Report) -> Table:
    dense, rounded = report["dense_layer"], bool(bits_in(report))
    title = "kept widths and bits, layer by layer" if rounded else "kept widths, layer by layer"
    table = Table(title=title, title_justify="left", caption_justify="left")
    for name in ("layer", "query heads", "KV heads", "attention", "FFN channels", "FFN"):
        table.add_column(name, justify="right" if name not in ("attention", "FFN") else "left")
    for i, layer in enumerate(report["layers"]):
        table.add_row(
            str(i),
            with_bits(str(layer["query_heads"]), bits_of(layer, "attention")),
            str(layer["kv_heads"]),
            _bar(layer["query_heads"], dense["query_heads"]),
            with_bits(channels(layer), bits_of(layer, "ffn")),
            _bar(channel_count(layer), channel_count(dense)),
        )
    if rounded:
        table.caption = f"embedding and head: {format_of(report.get('head_bits', 0), floats_of(report))}"
    return table


def _bar(value: int, full: int) -> str:
    filled = round(_BAR * value / full)
    return "█" * filled + "░" * (_BAR - filled) if value else "dropped"


def _summary(report: Report) -> Table:
    latency = report["latency"]
    table = Table(title=f"{report['model']['name']}: dense and subnet", title_justify="left")
    for name in ("", "dense", "subnet", "change"):
        table.add_column(name, justify="right" if name else "left")
    if latency["target_ms"] is not None:
        table.add_row(f"target {latency['metric']} (ms)", "", f"{latency['target_ms']:.4g}", "")
    if latency["predicted_ms"] is not None:
        name = "estimated" if (latency.get("profile") or {}).get("estimate") else "predicted"
        table.add_row(f"{name} {latency['metric']} (ms)", "", f"{latency['predicted_ms']:.4g}", "")
    if latency["measured_ms"] is not None:
        table.add_row(
            f"measured {latency['metric']} (ms)",
            f"{latency['dense_ms']:.4g}",
            f"{latency['measured_ms']:.4g}",
            f"{latency['speedup']:.2f}x faster",
        )
    quality, weights = served_perplexity(report), served_weights(report)
    if cut := report.get("vocabulary"):
        table.add_row("vocabulary (tokens)", *_counts(cut["rows"]), _change(cut["rows"]))
        loss = cut["loss_per_byte"]
        table.add_row("loss (nats per byte)", *(f"{loss[n]:.4f}" for n in _MODELS), _change(loss))
    table.add_row("perplexity", f"{quality['dense']:.2f}", f"{quality['subnet']:.2f}", _change(quality))
    table.add_row("parameters (M)", *_pair(report["parameters"], 1e6), _change(report["parameters"]))
    table.add_row("weights (MiB)", *_pair(weights, 2**20), _change(weights))
    cache = report["kv_bytes_per_token"]
    table.add_row("KV cache per token (KiB)", *_pair(cache, 2**10), _change(cache))
    return table


def _counts(values: DenseAndSubnet) -> tuple[str, str]:
    return f"{values['dense']:,}", f"{values['subnet']:,}"


def _pair(values: DenseAndSubnet, unit: float) -> tuple[str, str]:
    return f"{values['dense'] / unit:.2f}", f"{values['subnet'] / unit:.2f}"


def _change(values: DenseAndSubnet) -> str:
    return f"{100 * (values['subnet'] / values['dense'] - 1):+.1f} %"
