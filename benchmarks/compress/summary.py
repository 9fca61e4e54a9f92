"""Figures by stage and of whole runs, their ratios, and the tables that are printed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.compress.staged_process import Segment
from benchmarks.compress.stages import NAMES, stage_name

Figures = dict[str, Any]
SIDES = ("ours", "baseline")
_SAME_LOSS = 1e-3
FIGURES = ("wall_seconds", "cpu_seconds", "peak_bytes")


def by_stage(segments: Sequence[Segment]) -> dict[str, Figures]:
    """Returns the figures of each stage, by what it does: sums over its times, and the highest peak."""
    groups: dict[str, list[Segment]] = {}
    for segment in segments:
        groups.setdefault(stage_name(segment.title), []).append(segment)
    return {name: {"times": len(group), **whole(group)} for name, group in groups.items()}


def whole(segments: Sequence[Segment]) -> Figures:
    """Returns the sums and the highest peak of some segments."""
    return {
        "wall_seconds": round(sum(segment.wall_seconds for segment in segments), 3),
        "cpu_seconds": round(sum(segment.cpu_seconds for segment in segments), 2),
        "peak_bytes": max((segment.peak_bytes for segment in segments), default=0),
    }


def ratios(rounds: Sequence[Mapping[str, Any]]) -> Figures:
    """Returns ours / baseline: the median over rounds, by stage, of the whole, and of the loss increase.

    A stage that one of the two does not have has no ratio, and a round in which one failed does not count.
    """
    names = dict.fromkeys(name for one in rounds for side in SIDES for name in one[side]["stages"])
    done = [one for one in rounds if all(one[side]["result"] for side in SIDES)]
    pairs = [(one["ours"], one["baseline"]) for one in done]
    stages = {
        name: _ratios([(ours["stages"].get(name), base["stages"].get(name)) for ours, base in pairs])
        for name in _in_order(names)
    }
    results = [(ours["result"], base["result"]) for ours, base in pairs]
    return {
        "stages": stages,
        "whole": _ratios([(ours["whole"], base["whole"]) for ours, base in pairs]),
        "loss_increase": _ratio(results, "loss_increase"),
    }


def remarks(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns what has to be known to read the ratios: other tokens evaluated, missed targets, no peaks."""
    notes = []
    for number, one in enumerate(rounds, 1):
        results = {side: one[side]["result"] for side in SIDES if one[side]["result"]}
        losses = [result["loss"]["dense"] for result in results.values()]
        if losses and max(losses) - min(losses) > _SAME_LOSS:
            notes.append(f"round {number}: dense losses {losses}: the trees evaluate different tokens")
        notes += [
            f"round {number}: {side} missed its target" for side, r in results.items() if r["met"] is False
        ]
        notes += [
            f"round {number}: peaks of {side} are of the run so far: the system lets nobody start them anew"
            for side in SIDES
            if not one[side]["peaks_by_stage"]
        ]
    return notes


def comparison_table(rounds: Sequence[Mapping[str, Any]], found: Figures) -> Iterator[str]:
    """Yields the lines of a Markdown table, stage by stage, medians over rounds."""
    columns = ("wall s", "CPU s", "MiB")
    yield "| stage |" + "".join(f" {c}, ours | baseline | ratio |" for c in columns)
    yield "|---" * 10 + "|"
    for name in [*found["stages"], "whole"]:
        cells = ""
        for figure in FIGURES:
            pair = [_median([_row(one[side], name).get(figure) for one in rounds]) for side in SIDES]
            ratio = (found["whole"] if name == "whole" else found["stages"][name])[figure]
            cells += "".join(f" {_shown(value, figure)} |" for value in pair)
            cells += f" {'' if ratio is None else format(ratio, '.3f')} |"
        yield f"| {name} |{cells}"


def stage_table(document: Mapping[str, Any]) -> Iterator[str]:
    """Yields the lines of a Markdown table of one run."""
    yield "| stage | wall s | CPU s | peak MiB |"
    yield "|---" * 4 + "|"
    for name in [*_in_order(document["stages"]), "whole"]:
        row = _row(document, name)
        yield f"| {name} |" + "".join(f" {_shown(row[figure], figure)} |" for figure in FIGURES)


def result_lines(side: str, result: Mapping[str, Any] | None) -> Iterator[str]:
    """Yields what an artefact is, in one line."""
    if result is None:
        yield f"{side}: no artefact"
        return
    latency, perplexity = result["latency"], result["perplexity"]
    yield (
        f"{side}: loss +{result['loss_increase']:.4f} nats/token, perplexity {perplexity['dense']:.2f} to "
        f"{perplexity['subnet']:.2f}; {latency['measured_ms']:.4g} ms of {latency['target_ms']:.4g} ms "
        f"({latency['speedup']:.3f}x)"
    )


def _row(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = document["whole"] if name == "whole" else document["stages"].get(name, {})
    return found


def _in_order(names: Mapping[str, Any]) -> list[str]:
    """Stages in the order of a run, unlisted ones before the end."""
    order = {name: number for number, name in enumerate(NAMES)}
    return sorted(names, key=lambda name: order.get(name, len(NAMES) - 1.5))


def _ratios(pairs: Sequence[tuple[Figures | None, Figures | None]]) -> Figures:
    return {figure: _ratio(pairs, figure) for figure in FIGURES}


def _ratio(pairs: Sequence[tuple[Figures | None, Figures | None]], figure: str) -> float | None:
    quotients = [ours[figure] / base[figure] for ours, base in pairs if ours and base and base[figure]]
    return round(median(quotients), 4) if quotients else None


def _median(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return median(there) if there else None


def _shown(value: float | None, figure: str) -> str:
    if value is None:
        return ""
    return f"{value / 2**20:.0f}" if figure == "peak_bytes" else f"{value:.1f}"
