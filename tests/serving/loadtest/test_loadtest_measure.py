import random

import numpy as np
import pytest

from lathe.serving.loadtest.measure import Round, distribution, percentile, summary
from lathe.serving.loadtest.sample import Sample


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_percentiles_are_numpys(count: int) -> None:
    values = [random.Random(count).random() for _ in range(count)]
    for percent in (0, 50, 90, 95, 99, 100):
        assert percentile(sorted(values), percent) == pytest.approx(np.percentile(values, percent))
    found = distribution(values)
    assert found is not None
    assert found["mean"] == pytest.approx(np.mean(values), abs=1e-4)
    assert found["n"] == count


def test_the_definitions_on_samples_computed_by_hand() -> None:
    two_tokens_in_one_chunk = Sample(
        sent_s=1.0, chunk_s=[0.1, 0.3, 0.6], end_s=0.7, prompt_tokens=5, output_tokens=6
    )
    one_token = Sample(sent_s=2.0, chunk_s=[0.2], end_s=1.0, prompt_tokens=5, output_tokens=1)
    failed = Sample(
        sent_s=0.0, chunk_s=[9.0, 20.0], end_s=5.0, output_tokens=99, error_kind="dropped", error="x"
    )
    found = summary([Round([two_tokens_in_one_chunk, one_token, failed], client_cpu_s=1.0)])
    assert (found["requests"], found["succeeded"], found["failed"]) == (3, 2, 1)
    assert found["errors"] == {"dropped": 1}
    assert found["duration_s"] == 5.0
    assert found["output_tokens_per_second"] == pytest.approx(7 / 5)
    assert found["total_tokens_per_second"] == pytest.approx(17 / 5)
    assert found["requests_per_second"] == pytest.approx(2 / 5)
    assert found["ttft_ms"]["mean"] == pytest.approx(150)
    assert (found["tpot_ms"]["n"], found["tpot_ms"]["p50"]) == (1, pytest.approx(100))
    assert (found["itl_ms"]["min"], found["itl_ms"]["max"]) == (pytest.approx(200), pytest.approx(300))
    assert found["e2e_ms"]["max"] == pytest.approx(600)


def test_nothing_succeeded_is_no_number() -> None:
    found = summary([Round([Sample(sent_s=0, error_kind="connect")], 0.0)])
    assert found["ttft_ms"] is None
    assert found["output_tokens_per_second"] == 0
