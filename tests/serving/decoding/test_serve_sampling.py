from __future__ import annotations

import numpy as np
import pytest

from lathe.serving.decoding.sampling import Sampler, SamplingParams, _nucleus, token_logprob

LOGITS = np.log(np.array([0.5, 0.25, 0.15, 0.06, 0.04], dtype=np.float32))


def draws(sampling: SamplingParams, count: int = 4000, logits: np.ndarray = LOGITS) -> np.ndarray:
    sampler = Sampler(sampling)
    tokens = [sampler.sample(logits) for _ in range(count)]
    return np.bincount(tokens, minlength=len(logits)) / count


def test_draws_follow_the_distribution():
    np.testing.assert_allclose(draws(SamplingParams(seed=1)), np.exp(LOGITS), atol=0.03)


def test_temperature_sharpens_and_zero_is_greedy():
    cold = np.exp(LOGITS * 2) / np.exp(LOGITS * 2).sum()
    np.testing.assert_allclose(draws(SamplingParams(seed=1, temperature=0.5)), cold, atol=0.03)
    assert draws(SamplingParams(temperature=0))[0] == 1
    assert draws(SamplingParams(temperature=1e-300))[0] == 1


def test_top_k_and_top_p_cut_the_tail():
    np.testing.assert_allclose(draws(SamplingParams(seed=2, top_k=2)), [2 / 3, 1 / 3, 0, 0, 0], atol=0.03)
    np.testing.assert_allclose(draws(SamplingParams(seed=2, top_p=0.6)), [2 / 3, 1 / 3, 0, 0, 0], atol=0.03)
    np.testing.assert_allclose(draws(SamplingParams(seed=2, top_k=3, top_p=0.5)), [1, 0, 0, 0, 0], atol=0.03)
    assert draws(SamplingParams(top_p=1e-9))[0] == 1


@pytest.mark.parametrize("top_p", [1e-9, 0.3, 0.9, 0.999, 1 - 1e-12])
@pytest.mark.parametrize("spread", [0, 0.5, 4, 300])
def test_the_nucleus_is_the_smallest_sufficient_set(top_p: float, spread: float):
    logits = np.random.default_rng(0).normal(0, 1, 5000) * spread
    weights = np.exp(logits - logits.max())
    order = np.argsort(-weights, kind="stable")
    enough = int(np.searchsorted(np.cumsum(weights[order]), top_p * weights.sum())) + 1
    kept = _nucleus(weights, top_p)
    assert len(kept) == len(set(kept.tolist())) == pytest.approx(enough, abs=1)
    assert set(kept.tolist()) <= set(order[: enough + 1].tolist())


def test_a_seed_reproduces_and_choices_differ():
    def run(seed: int | None, choice: int = 0) -> list[int]:
        sampler = Sampler(SamplingParams(seed=seed), choice)
        return [sampler.sample(np.zeros(1000, np.float32)) for _ in range(10)]

    assert run(-7) == run(-7)
    assert run(7) != run(8)
    assert run(7, 0) != run(7, 1)
    assert run(None) != run(None)


def test_penalties_count_generated_tokens():
    logits = np.array([1.0, 0.9, 0.5], np.float32)
    presence = Sampler(SamplingParams(temperature=0, presence_penalty=0.3))
    assert [presence.sample(logits) for _ in range(4)] == [0, 1, 0, 0]
    frequency = Sampler(SamplingParams(temperature=0, frequency_penalty=0.3))
    assert [frequency.sample(logits) for _ in range(5)] == [0, 1, 0, 1, 2]


def test_bias_and_bans():
    assert Sampler(SamplingParams(temperature=0, logit_bias={4: 100})).sample(LOGITS) == 4
    assert Sampler(SamplingParams(temperature=0)).sample(LOGITS, banned=[0, 1]) == 2


def test_logits_are_left_alone_and_nan_is_refused():
    logits = LOGITS.copy()
    Sampler(SamplingParams(logit_bias={1: 5}, seed=0)).sample(logits)
    np.testing.assert_array_equal(logits, LOGITS)
    with pytest.raises(FloatingPointError):
        Sampler(SamplingParams()).sample(np.array([np.nan, 0], np.float32))


def test_scores_are_log_probabilities():
    scored = token_logprob(LOGITS + 3, 2, 2)
    assert scored.token == 2
    assert scored.logprob == pytest.approx(np.log(0.15), abs=1e-6)
    assert [token for token, _ in scored.top] == [0, 1]
    assert [logprob for _, logprob in scored.top] == pytest.approx(np.log([0.5, 0.25]), abs=1e-6)
