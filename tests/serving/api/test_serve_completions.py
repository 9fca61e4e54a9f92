from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM

from lathe.serving.api.response_builder import _Place
from lathe.serving.api.schemas import StreamOptions
from lathe.serving.decoding.tokenizer import Tokenizer
from support.tiny_server import NAME, Running, running

PROMPT = "The quick brown fox"


@pytest.fixture(scope="module")
def model(artefact_dir: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(artefact_dir.parents[2] / NAME).eval()


def log_probabilities(model: Any, tokens: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].log_softmax(-1).numpy()


def test_greedy_text_is_that_of_transformers(server: Running, client: openai.OpenAI, model: Any):
    tokens = server.service.tokenizer.encode(PROMPT)
    with torch.no_grad():
        expected = model.generate(
            torch.tensor(tokens)[None],
            attention_mask=torch.ones(1, len(tokens)),
            max_new_tokens=40,
            do_sample=False,
            pad_token_id=1,
        )[0, len(tokens) :]
    answer = client.completions.create(model=NAME, prompt=PROMPT, max_tokens=40, temperature=0)
    pieces = b"".join(map(server.service.tokenizer.token_bytes, expected.tolist()))
    assert answer.choices[0].text == pieces.decode(errors="replace")
    assert answer.usage.prompt_tokens == len(tokens)
    assert answer.usage.completion_tokens == len(expected)


def test_echoed_scores_are_those_of_transformers(client: openai.OpenAI, server: Running, model: Any):
    """What lm-eval asks for: token ids in, log-probabilities of every token out; longer than one chunk."""
    prompts = [
        [0, *np.random.default_rng(i).integers(5, 320, size).tolist()] for i, size in enumerate((9, 300))
    ]
    answer = client.completions.create(
        model=NAME, prompt=prompts, max_tokens=1, logprobs=1, echo=True, temperature=0, seed=1
    )
    for choice, prompt in zip(answer.choices, prompts, strict=True):
        expected = log_probabilities(model, prompt)
        scores = choice.logprobs
        assert scores.token_logprobs[0] is scores.top_logprobs[0] is None
        assert len(scores.tokens) == len(scores.text_offset) == len(prompt) + 1
        chosen = [expected[i, token] for i, token in enumerate(prompt[1:])]
        np.testing.assert_allclose(scores.token_logprobs[1:-1], chosen, atol=1e-4)
        best = [max(top.values()) for top in scores.top_logprobs[1:]]
        np.testing.assert_allclose(best, expected.max(-1), atol=1e-4)


def test_echo_repeats_the_prompt(client: openai.OpenAI):
    answer = client.completions.create(model=NAME, prompt=PROMPT, max_tokens=0, echo=True, logprobs=0)
    choice = answer.choices[0]
    assert choice.text == PROMPT
    places = zip(choice.logprobs.tokens, choice.logprobs.text_offset, strict=True)
    assert all(PROMPT[at:].startswith(token) for token, at in list(places)[1:])


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 1.5, "seed": 5, "n": 3},
        {"seed": 2, "logprobs": 3, "echo": True, "n": 2},
        {"seed": 3, "stop": ["e", " the"], "n": 4},
        {"prompt": [PROMPT, "naïve", "東京"], "seed": 4, "logprobs": 0, "logit_bias": {"40": 3, "1": -100}},
        {
            "seed": 6,
            "presence_penalty": 1,
            "frequency_penalty": 0.5,
            "top_p": 0.9,
            "extra_body": {"top_k": 50},
        },
    ],
)
def test_a_stream_adds_up_to_the_whole(client: openai.OpenAI, options: dict[str, Any]):
    options = {"model": NAME, "prompt": PROMPT, "max_tokens": 30} | options
    whole = client.completions.create(**options)
    parts = list(client.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert parts[-1].usage == whole.usage
    assert not parts[-1].choices
    for choice in whole.choices:
        mine = [part.choices[0] for part in parts[:-1] if part.choices[0].index == choice.index]
        assert "".join(part.text for part in mine) == choice.text
        assert [part.finish_reason for part in mine if part.finish_reason] == [choice.finish_reason]
        if choice.logprobs:
            tokens = [token for part in mine for token in part.logprobs.tokens]
            offsets = [offset for part in mine for offset in part.logprobs.text_offset]
            assert (tokens, offsets) == (choice.logprobs.tokens, choice.logprobs.text_offset)


def test_every_event_can_tell_the_usage_so_far(client: openai.OpenAI):
    options = {"include_usage": True, "continuous_usage_stats": True}
    parts = list(
        client.completions.create(
            model=NAME, prompt=PROMPT, max_tokens=9, seed=1, stream=True, stream_options=options
        )
    )
    counts = [part.usage.completion_tokens for part in parts]
    assert counts == sorted(counts)
    assert counts[0] >= 1
    assert counts[-2:] == [9, 9]


def test_concurrent_answers_equal_those_given_one_by_one(server: Running):
    jobs = [
        {
            "prompt": PROMPT * (1 + i * 5 % 9),
            "max_tokens": 5 + i * 11 % 40,
            "seed": i,
            "temperature": [0, 1, 1.8][i % 3],
            "logprobs": 2,
            "n": 1 + i % 2,
        }
        for i in range(12)
    ]
    alone = [server.complete(**job)["choices"] for job in jobs]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda job: server.complete(**job)["choices"], jobs))
    assert together == alone


def test_choices_differ_and_a_seed_reproduces_them(client: openai.OpenAI):
    def texts() -> list[str]:
        answer = client.completions.create(model=NAME, prompt=PROMPT, max_tokens=20, n=4, seed=11)
        return [choice.text for choice in answer.choices]

    assert texts() == texts()
    assert len(set(texts())) == 4


def test_minimum_and_ignored_end(server: Running):
    ending = {"logit_bias": {"1": 100}, "max_tokens": 9}
    assert server.complete(**ending)["usage"]["completion_tokens"] == 1
    assert server.complete(**ending, min_tokens=4)["usage"]["completion_tokens"] == 5
    assert server.complete(**ending, ignore_eos=True)["usage"]["completion_tokens"] == 9


def test_fields_that_change_nothing_are_accepted(server: Running):
    body = {
        "user": "me",
        "store": False,
        "metadata": {"a": "b"},
        "best_of": 1,
        "suffix": None,
        "tools": [],
        "nope": None,
    }
    server.complete(max_tokens=1, **body)


def test_no_field_is_unknown_to_openai(artefact_dir: Path, server: Running):
    document = server.complete(max_tokens=1)
    assert set(document) == {"id", "object", "created", "model", "choices", "usage", "system_fingerprint"}
    assert set(document["choices"][0]) == {"index", "text", "logprobs", "finish_reason"}


def test_an_engine_failure_is_a_500_and_an_event_in_a_stream(artefact_dir: Path):
    with running(artefact_dir) as server:
        server.runner.fail_next = True
        response = server.post("completions", prompt=PROMPT)
        assert response.status_code == 500
        assert response.json()["error"]["type"] == "server_error"
        server.runner.fail_next = True
        with (
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="x") as client,
            pytest.raises(openai.APIError),
        ):
            list(client.completions.create(model=NAME, prompt=PROMPT, stream=True))
        assert server.complete(ignore_eos=True)["usage"]["completion_tokens"] == 16
        assert server.counter("lathe_requests_total", endpoint="completions", outcome="error") == 2


class Tagged:
    """A tokenizer whose first token has a space in front, and whose second is a special token."""

    BYTES: ClassVar = {0: b" Hello", 1: b"", 2: b" there"}
    NAMES: ClassVar = {1: b"<|im_end|>"}

    def token_bytes(self, token: int) -> bytes:
        return self.BYTES[token]

    def display_bytes(self, token: int) -> bytes:
        return self.NAMES.get(token, self.BYTES[token])


@pytest.mark.parametrize(
    ("echo", "offsets"),
    [("Hello<|im_end|> there", [0, 5, 15]), (" Hello there", [0, 6, 6]), ("", [0, 6, 6])],
)
def test_offsets_are_in_the_text_as_it_was_sent(echo: str, offsets: list[int]):
    place = _Place(cast(Tokenizer, Tagged()), echo)
    assert [place.advance(token) for token in (0, 1, 2)] == offsets


def test_null_is_the_default_in_stream_options_too():
    assert StreamOptions.model_validate({"include_usage": True, "include_obfuscation": None}).include_usage
