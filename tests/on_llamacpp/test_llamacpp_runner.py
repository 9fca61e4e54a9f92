"""Slots of one llama.cpp context: right, independent of each other, moved, emptied, and refused clearly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("llama_cpp")

from conftest import TOKENS, TYPES
from lathe.artefact.errors import UserError
from lathe.artefact.gguf.file import open_gguf
from lathe.artefact.llamacpp.cache_size import kv_bytes_per_token
from lathe.artefact.llamacpp.runner import LlamaCppRunner
from support.tiny_gguf import settings, write_gguf
from support.tiny_llama import dense_model

LENGTHS = (290, 1, 33, 256)
STEPS = 4


def runner(file: Path, slots: int = 4, length: int = 400, **options: Any) -> LlamaCppRunner:
    return LlamaCppRunner(file, max_batch=slots, max_length=length, threads=1, **options)


def row(seed: int, length: int = 400) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, TOKENS, length)


def together(model: LlamaCppRunner) -> list[list[np.ndarray]]:
    """Rows 0 to 3 read in chunks, then decoded in one batch: the logits of each."""
    rows = [row(seed) for seed in range(4)]
    found = []
    for slot, (tokens, length) in enumerate(zip(rows, LENGTHS, strict=True)):
        for start in range(0, length, 128):
            logits = model.prefill(slot, tokens[start : min(start + 128, length)])
        found.append([logits[0]])
    for step in range(STEPS):
        at = [tokens[length + step] for tokens, length in zip(rows, LENGTHS, strict=True)]
        for own, new in zip(found, model.decode(np.array(at)), strict=True):
            own.append(new)
    return found


def alone(file: Path, seed: int, length: int) -> list[np.ndarray]:
    model, tokens = runner(file, 1), row(seed)
    for start in range(0, length, 128):
        logits = model.prefill(0, tokens[start : min(start + 128, length)])
    steps = tokens[length : length + STEPS]
    return [logits[0], *(model.decode(step[None])[0] for step in steps)]


def test_logits_are_those_of_transformers(tmp_path: Path) -> None:
    dense = dense_model(max_position_embeddings=512, vocab_size=TOKENS)
    model = runner(write_gguf(tmp_path / "m.gguf", dense), cache="f32")
    tokens = row(0)
    with torch.no_grad():
        expected = dense(torch.from_numpy(tokens)[None]).logits[0].numpy()
    got = [model.prefill(1, tokens[:200], "all"), model.prefill(1, tokens[200:300], "all")]
    model.move(1, 0)
    got += [model.decode(token[None]) for token in tokens[300:320]]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.concatenate(got), expected[:320], atol=1e-4 * scale)
    model.reset(0)
    np.testing.assert_allclose(model.prefill(0, tokens), expected[-1:], atol=1e-4 * scale)


@pytest.mark.parametrize("kind", TYPES)
def test_slots_in_one_batch_are_as_each_alone(files: dict[str, Path], kind: str) -> None:
    for seed, got in enumerate(together(runner(files[kind]))):
        expected = alone(files[kind], seed, LENGTHS[seed])
        np.testing.assert_array_equal(got[0], expected[0])
        if kind.startswith("Q"):
            np.testing.assert_array_equal(got, expected)
        else:  # other kernels for one row than for several
            np.testing.assert_allclose(got, expected, atol=5e-3 * np.abs(expected).max())


def test_what_was_in_a_slot_before_changes_no_bit(files: dict[str, Path]) -> None:
    model = runner(files["F16"])
    first = together(model)
    for slot in (2, 0, 3, 1):
        model.reset(slot)
    assert model.lengths.tolist() == [0] * 4
    np.testing.assert_array_equal(together(model), first)


def test_a_slot_that_moved_goes_on(files: dict[str, Path]) -> None:
    tokens = row(5)
    expected = alone(files["F32"], 5, 290)
    model = runner(files["F32"])
    model.prefill(0, row(6)[:300])
    for start in range(0, 290, 128):
        model.prefill(3, tokens[start : min(start + 128, 290)])
    model.move(3, 1)
    model.move(1, 0)
    assert model.lengths.tolist() == [290, 0, 0, 0]
    np.testing.assert_array_equal([model.decode(t[None])[0] for t in tokens[290:294]], expected[1:])
    model.copy(0, 2)
    model.cut(2, 290)
    assert model.lengths.tolist() == [294, 0, 290, 0]
    model.move(2, 0)
    np.testing.assert_array_equal([model.decode(t[None])[0] for t in tokens[290:294]], expected[1:])


def test_logits_after_each_token_or_the_last(files: dict[str, Path]) -> None:
    model, tokens = runner(files["Q8_0"], 2), row(7)
    every = model.prefill(0, tokens[:300], "all")
    assert every.shape == (300, TOKENS)
    assert every.dtype == np.float32
    np.testing.assert_array_equal(model.prefill(1, tokens[:300]), every[-1:])


@pytest.mark.parametrize("flash", [False, True])
def test_flash_attention_is_near(files: dict[str, Path], flash: bool) -> None:
    expected, got = (alone_with(files["F32"], flash=on) for on in (False, flash))
    np.testing.assert_allclose(got, expected, atol=0.01 * np.abs(expected).max())
    assert np.array_equal(got, expected) is not flash


def alone_with(file: Path, **options: Any) -> np.ndarray:
    return runner(file, 1, **options).prefill(0, row(0)[:200], "all")


def test_sizes(files: dict[str, Path]) -> None:
    model = runner(files["Q8_0"], slots=3, length=300)
    assert (model.max_batch, model.max_length, model.vocab_size) == (3, 300, TOKENS)
    assert model.kv_bytes_per_token == 4 * 2 * 4 * 16 * 2
    assert model.kv_cache_bytes == 3 * 512 * model.kv_bytes_per_token
    stored = sum(np.prod(tensor.shape) for tensor in open_gguf(files["Q8_0"]).tensors.values())
    assert 34 / 32 * stored <= model.weight_bytes < 1.2 * stored


@pytest.mark.parametrize("flash", [False, True])
def test_bytes_of_a_token_are_what_llama_cpp_keeps(files: dict[str, Path], flash: bool) -> None:
    model = runner(files["F16"], 1, flash=flash)
    sizes = []
    for _ in range(2):
        model.prefill(0, row(0)[:10])
        sizes.append(model._api.llama_state_seq_get_size(model._context, 0))
    place = 12  # position, count of sequences, sequence
    assert (sizes[1] - sizes[0]) / 10 - place == model.kv_bytes_per_token
    assert kv_bytes_per_token(open_gguf(files["F16"]), 2, flash=flash) == model.kv_bytes_per_token


def test_what_cannot_be_is_refused(files: dict[str, Path]) -> None:
    model = runner(files["F16"], 2, length=20)
    for call, message in (
        (lambda: model.prefill(2, row(0)[:3]), "no slot 2"),
        (lambda: model.prefill(0, row(0)[:0]), "non-empty row of integers"),
        (lambda: model.prefill(0, np.array([TOKENS])), f"token {TOKENS} is outside"),
        (lambda: model.prefill(0, row(0)[:21]), "0 cached and 21 new tokens exceed"),
        (lambda: model.decode(np.array([1, 2, 3])), "3 tokens for 2 slots"),
    ):
        with pytest.raises(UserError, match=message):
            call()
    model.prefill(0, row(0)[:20])
    with pytest.raises(UserError, match="slot 0 is full: 20 of 20 tokens"):
        model.decode(np.array([1]))
    for slots, length in ((0, 8), (2, 513), (1025, 8)):
        with pytest.raises(UserError, match="impossible"):
            runner(files["F16"], slots, length)


def test_a_step_that_fails_leaves_the_slot_as_it_was(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, expected = row(3), alone(files["Q8_0"], 3, 20)
    model = runner(files["Q8_0"], 2)
    model.prefill(0, tokens[:20])
    real = model._api.llama_decode

    def then_fails(context: Any, batch: Any) -> int:
        real(context, batch)
        return -3

    monkeypatch.setattr(model._api, "llama_decode", then_fails)
    with pytest.raises(UserError, match=r"llama.cpp failed on 1 tokens \(status -3\): it gives no reason"):
        model.decode(np.array([5]))
    monkeypatch.undo()
    assert model.lengths.tolist() == [20, 0]
    np.testing.assert_array_equal([model.decode(t[None])[0] for t in tokens[20:24]], expected[1:])


def test_files_that_llama_cpp_does_not_load_say_why(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dense = dense_model()
    uneven = settings(dense.config, "llama") | {"llama.feed_forward_length": [96, 96, 96]}
    cases = {
        "llama.cpp cannot load .*not found": {"skip": lambda name: name == "blk.2.ffn_up.weight"},
        "wrong array length": {"metadata": uneven},
        "key_length": {"metadata": {"llama.attention.key_length": "x"}},
    }
    for message, options in cases.items():
        file = write_gguf(tmp_path / "bad.gguf", dense, **options)  # type: ignore[arg-type]
        with pytest.raises(UserError, match=message):
            runner(file, length=100)
    file.write_bytes(write_gguf(tmp_path / "good.gguf", dense).read_bytes()[:-100])
    with pytest.raises(UserError, match="llama.cpp cannot load .*bounds"):
        runner(file, length=100)
    file.write_bytes(b"GGUF")
    with pytest.raises(UserError, match="ends within its header"):
        runner(file)
    assert capfd.readouterr() == ("", "")
