from typing import Any

import pytest

from lathe.serving.loadtest.document import document, system_json
from lathe.serving.loadtest.measure import Round
from lathe.serving.loadtest.memory import Memory
from lathe.serving.loadtest.report import failures, notes
from lathe.serving.loadtest.sample import Sample


def answer(gap_s: float, tokens: int = 3, prompt: int | None = 4) -> Sample:
    chunks = [0.1 + gap_s * index for index in range(tokens)]
    return Sample(
        0.0, chunk_s=chunks, end_s=chunks[-1], prompt_tokens=prompt, output_tokens=tokens, asked_tokens=3
    )


def report_of(dense: list[Sample], subnet: list[Sample], client_cpu_s: float = 0.0) -> dict[str, Any]:
    systems = {
        name: system_json("http://x", name, [Round([one], client_cpu_s) for one in samples], Memory(100))
        for name, samples in (("dense", dense), ("subnet", subnet))
    }
    return document({"concurrency": 1, "output_tokens": 3, "rounds": len(dense)}, systems)


def test_ratios_are_of_paired_rounds() -> None:
    found = report_of([answer(0.2), answer(0.4), answer(0.1)], [answer(0.1), answer(0.1), answer(0.1)])
    spread = found["ratios"]["tpot_ms.p50"]
    assert spread["rounds"] == [pytest.approx(0.5), pytest.approx(0.25), pytest.approx(1.0)]
    assert (spread["median"], spread["min"], spread["max"]) == (0.5, 0.25, 1.0)
    assert found["ratios"]["peak_rss_bytes"]["rounds"] == [1.0]
    assert "model_weight_bytes" not in found["ratios"]
    assert notes(found) == []
    assert failures(found) is None


def test_rounds_that_disagree_show_no_difference() -> None:
    found = report_of([answer(0.2), answer(0.1)], [answer(0.1), answer(0.2)])
    assert [note.partition(":")[0] for note in notes(found)] == ["output tokens/s", "TPOT p50"]


def test_what_would_mislead_is_noted() -> None:
    found = report_of([answer(0.2, tokens=2)], [answer(0.1, prompt=None)], client_cpu_s=0.29)
    told = " / ".join(notes(found))
    for expected in (
        "dense: answers have 2.0 tokens",
        "subnet: the server reports no usage",
        "this client used",
    ):
        assert expected in told


def test_a_round_without_an_answer_has_no_ratio() -> None:
    dead = Sample(0.0, end_s=0.1, error_kind="connect", error="refused")
    found = report_of([answer(0.2), dead], [answer(0.1), answer(0.1)])
    assert found["ratios"]["tpot_ms.p50"]["rounds"] == [pytest.approx(0.5)]
    assert failures(found) == "dense: 1 of 2 requests failed (1 connect)"
