"""From raw samples to figures: tokens per second, ratios to the first, shares of what memory allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

_SETTLING = 4
"""Steps of a turn that are not counted: they find other systems' data in the caches."""
MEASURES = ("decode", "prefill")


def summarize(column: Mapping[str, Any], prompt: int) -> list[dict[str, Any]]:
    """A row for each batch size and system, the fastest decoder first.

    tokens_per_second: median of rounds (decode: of the medians of their steps). ratio_to_first: median over
    rounds of what it was to that of the system whose median is the highest of its model. share_of_memory:
    bytes that a decode step has to read, weights and KV cache, at the rate that memory was read with in the
    same round, to its time; share_of_read: at the rate that as many bytes were read with, just before.
    """
    rows = []
    for batch in dict.fromkeys(entry["batch"] for entry in column["rounds"]):
        rounds = [entry for entry in column["rounds"] if entry["batch"] == batch]
        names = [n for n in column["systems"] if all(n in entry["turns"] for entry in rounds)]
        found = [_row(name, column["systems"][name], rounds, batch, prompt) for name in names]
        for measure in MEASURES:
            _rank(found, rounds, measure)
        rows += sorted(found, key=lambda row: -row["decode"]["tokens_per_second"])
    return rows


def _row(
    name: str, facts: Mapping[str, Any], rounds: list[dict[str, Any]], batch: int, prompt: int
) -> dict[str, Any]:
    turns = [entry["turns"][name] for entry in rounds]
    steps = [_step(turn) for turn in turns]
    context = prompt + (_SETTLING + len(turns[0]["decode_ms"])) / 2
    cache = facts["kv_bytes"] * batch * context
    bytes_read = facts["streamed_bytes"] + cache
    shares = {
        "share_of_memory": [entry["memory_bytes_per_second"] for entry in rounds],
        "share_of_read": [turn["read_bytes_per_second"] for turn in turns],
    }
    return {
        "batch": batch,
        "system": name,
        "model": facts["model"],
        "format": facts["format"],
        "weight_bytes_a_step": facts["streamed_bytes"],
        "kv_bytes_a_step": round(cache),
        "decode": {"tokens_per_second": batch * 1e3 / median(steps), "step_ms": median(steps)},
        "prefill": {"tokens_per_second": median(batch * prompt * 1e3 / turn["prefill_ms"] for turn in turns)},
        **{
            label: median(bytes_read / rate * 1e3 / ms for rate, ms in zip(rates, steps, strict=True))
            for label, rates in shares.items()
        },
    }


def _step(turn: Mapping[str, Any]) -> float:
    return float(median(turn["decode_ms"][_SETTLING:]))


def _rank(rows: list[dict[str, Any]], rounds: list[dict[str, Any]], measure: str) -> None:
    """Ratios within the systems that run the same model."""
    for model in {row["model"] for row in rows}:
        same = [row for row in rows if row["model"] == model]
        first = max(same, key=lambda row: row[measure]["tokens_per_second"])["system"]
        for row in same:
            row[measure]["ratio_to_first"] = median(
                _milliseconds(turns[first], measure) / _milliseconds(turns[row["system"]], measure)
                for turns in (entry["turns"] for entry in rounds)
            )


def _milliseconds(turn: Mapping[str, Any], measure: str) -> float:
    return _step(turn) if measure == "decode" else float(turn["prefill_ms"])


def table(name: str, column: Mapping[str, Any]) -> Iterator[str]:
    """Lines of Markdown, and those that could not run."""
    yield f"\n{name}\n"
    yield (
        "| batch | system | format | decode tok/s | of first | prefill tok/s | of first | of memory bound "
        "| of same-size read |"
    )
    yield "|---" * 9 + "|"
    for row in column["summary"]:
        decode, prefill = row["decode"], row["prefill"]
        yield (
            f"| {row['batch']} | {row['system']} | {row['format']} | {decode['tokens_per_second']:.0f} "
            f"| {decode['ratio_to_first']:.2f} | {prefill['tokens_per_second']:.0f} "
            f"| {prefill['ratio_to_first']:.2f} | {row['share_of_memory']:.0%} | {row['share_of_read']:.0%} |"
        )
    for system, facts in column["systems"].items():
        if "failed" in facts:
            yield f"{system}: {facts['failed']}"
        elif "agreement" in facts:
            chosen = f" ({facts['chosen']})" if facts.get("chosen") else ""
            told = _told(facts["agreement"])
            yield f"{system}{chosen}: {told}, {facts['idle_cpu_share']:.0%} of a core while idle"


def _told(found: Mapping[str, Any]) -> str:
    distances = (
        f"{found['relative_error']:.1e} from transformers in float32, KL {found['kl_nats']:.1e} nats, "
        if "kl_nats" in found
        else ""
    )
    return (
        f"{'' if found.get('same_model', True) else 'ANOTHER MODEL: '}{distances}"
        f"{found['greedy_tokens_equal']} of {found['greedy_tokens']} greedy tokens before a first other "
        f"(lead missed there: {found['largest_lead_missed_nats']:.3f} nats at most)"
    )
