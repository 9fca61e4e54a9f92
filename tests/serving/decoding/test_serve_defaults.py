"""C11: the model's recommended sampling is what a request gets that says nothing."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from lathe.artefact.errors import UserError
from lathe.compressor.export.dense import dense_artefact
from lathe.serving.decoding.generation_defaults import recommended
from lathe.serving.decoding.sampling import Sampler, SamplingParams
from support.tiny_server import NAME, Running, running, save_checkpoint

MESSAGES: Any = [{"role": "user", "content": "The fox?"}]


def written(directory: Path, **settings: Any) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "generation_config.json").write_text(json.dumps(settings))
    return directory


def texts(server: Running, **body: Any) -> list[str]:
    plain = server.complete(max_tokens=12, n=3, **body)["choices"]
    chat = server.post("chat/completions", messages=MESSAGES, max_tokens=12, n=3, **body).json()["choices"]
    return [choice["text"] for choice in plain] + [choice["message"]["content"] for choice in chat]


def test_c11_what_the_file_recommends_and_nothing_else(tmp_path: Path):
    assert recommended(tmp_path) == {}
    found = recommended(
        written(
            tmp_path,
            temperature=0.6,
            top_k=20,
            top_p=0.95,
            min_p=0.1,
            repetition_penalty=1.05,
            max_new_tokens=100,
            do_sample=True,
            eos_token_id=[1, 2],
            bos_token_id=0,
        )
    )
    assert found == {
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
        "min_p": 0.1,
        "repetition_penalty": 1.05,
        "max_new_tokens": 100,
    }
    assert recommended(written(tmp_path, do_sample=False, temperature=0.6)) == {"temperature": 0}
    assert recommended(written(tmp_path, temperature=None, top_k=None)) == {}


def test_c11_the_log_tells_what_is_used_and_what_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "lathe.serving"):
        recommended(written(tmp_path, temperature=0.6, no_repeat_ngram_size=3, num_beams=1, typical_p=0.9))
    told = "\n".join(caplog.messages)
    assert "temperature 0.6" in told
    assert "--generation-config none" in told
    assert "no_repeat_ngram_size, typical_p" in told
    assert "num_beams" not in told
    caplog.clear()
    recommended(written(tmp_path, eos_token_id=1, do_sample=True))
    assert not caplog.messages


@pytest.mark.parametrize(
    "setting",
    [
        {"temperature": "hot"},
        {"temperature": -1},
        {"temperature": True},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_k": -2},
        {"top_k": 1.5},
        {"min_p": 2},
        {"repetition_penalty": 0},
        {"max_new_tokens": 0},
        {"presence_penalty": [1]},
    ],
)
def test_c11_a_value_out_of_range_is_named(tmp_path: Path, setting: dict[str, Any]):
    with pytest.raises(UserError, match=f"generation_config.json: {next(iter(setting))} is"):
        recommended(written(tmp_path, **setting))


def test_c11_a_request_that_says_nothing_is_sampled_as_recommended(artefact_dir: Path, server: Running):
    greedy = texts(server, temperature=0)
    with running(artefact_dir, defaults={"temperature": 0.6, "top_k": 1}) as recommending:
        assert texts(recommending) == texts(recommending, temperature=None) == greedy
        hot = {"temperature": 1, "top_k": 0, "seed": 1}
        assert texts(recommending, **hot) == texts(server, seed=1)
        assert texts(recommending, temperature=1, top_k=-1, seed=1) == texts(server, seed=1)
    sampling = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.3}
    with running(artefact_dir, defaults=sampling) as recommending:
        assert texts(recommending, seed=5) == texts(server, seed=5, **sampling)


def test_c11_the_recommended_length_is_that_of_chats_without_one(artefact_dir: Path):
    with running(artefact_dir, defaults={"max_new_tokens": 7}) as server:
        asked = {"messages": MESSAGES, "ignore_eos": True}

        def length(**body: Any) -> int:
            usage = server.post("chat/completions", **asked, **body).json()["usage"]
            return int(usage["completion_tokens"])

        assert length() == 7
        assert length(max_tokens=9) == length(max_completion_tokens=9) == 9
        assert server.complete(ignore_eos=True)["usage"]["completion_tokens"] == 16
        assert server.post("chat/completions", **asked, min_tokens=8).status_code == 400


def test_c11_the_export_keeps_what_the_checkpoint_recommends(tmp_path: Path):
    checkpoint = save_checkpoint(tmp_path / NAME)
    settings = json.loads((checkpoint / "generation_config.json").read_text())
    written(checkpoint, **settings, temperature=0.6, top_k=1)
    artefact = dense_artefact(str(checkpoint), tmp_path / "cache")
    assert recommended(artefact) == {"temperature": 0.6, "top_k": 1}


def probabilities(sampling: SamplingParams, prompt: list[int], logits_V: np.ndarray) -> np.ndarray:
    draws = [Sampler(sampling, choice, prompt).sample(logits_V) for choice in range(4000)]
    return np.bincount(draws, minlength=len(logits_V)) / len(draws)


@pytest.mark.parametrize("penalty", [1.0, 1.8, 0.6])
@pytest.mark.parametrize("cut", [{"top_k": 12}, {"top_p": 0.8}, {"min_p": 0.15}, {"top_k": 9, "min_p": 0.1}])
def test_c11_cuts_and_penalty_are_those_of_transformers(penalty: float, cut: dict[str, Any]):
    rng = np.random.default_rng(3)
    logits_V = rng.normal(size=20).astype(np.float32)
    prompt = [1, 4, 4, 9, 17]
    temperature = 0.7
    processors = LogitsProcessorList()
    if penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(penalty))
    processors.append(TemperatureLogitsWarper(temperature))
    if "top_k" in cut:
        processors.append(TopKLogitsWarper(cut["top_k"]))
    if "top_p" in cut:
        processors.append(TopPLogitsWarper(cut["top_p"]))
    if "min_p" in cut:
        processors.append(MinPLogitsWarper(cut["min_p"]))
    expected = processors(torch.tensor([prompt]), torch.tensor(logits_V)[None]).softmax(-1)[0].numpy()
    sampling = SamplingParams(temperature=temperature, repetition_penalty=penalty, seed=1, **cut)
    found = probabilities(sampling, prompt, logits_V)
    assert set(np.flatnonzero(found)) <= set(np.flatnonzero(expected))
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_c11_the_penalty_falls_on_the_answer_too():
    logits_V = np.array([3.0, 2.9, -1.0], np.float32)
    sampler = Sampler(SamplingParams(temperature=0, repetition_penalty=1.1))
    assert [sampler.sample(logits_V) for _ in range(3)] == [0, 1, 0]
    assert Sampler(SamplingParams(temperature=0, repetition_penalty=1.1), prompt=[0]).sample(logits_V) == 1
