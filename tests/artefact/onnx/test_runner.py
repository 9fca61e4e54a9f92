"""The ONNX graph through the runner, against the stock dense model with the omitted parts zeroed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from lathe.artefact import free_memory as memory
from lathe.artefact.errors import UserError
from lathe.artefact.onnx import kv_cache
from lathe.artefact.onnx.runner import OnnxRunner
from lathe.compressor.export.onnx import export_onnx
from lathe.compressor.model.checkpoint import Checkpoint
from support.tiny_llama import PLANS, VARIANTS, VOCAB, checkpoint, pruned, reference, tokens

CASES = [("plain", name) for name in PLANS] + [
    (variant, name) for variant in VARIANTS if variant != "plain" for name in ("mixed", "whole layers")
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    return {
        name: checkpoint(tmp_path_factory.mktemp("dense"), **changes) for name, changes in VARIANTS.items()
    }


@pytest.fixture(scope="module")
def graph(sources: dict[str, Checkpoint], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("mixed")
    export_onnx(directory, pruned(sources["plain"], PLANS["mixed"]))
    return directory / "onnx" / "model.onnx"


def runner(graph: Path, max_batch: int = 4, max_length: int = 64) -> OnnxRunner:
    return OnnxRunner(graph, max_batch=max_batch, max_length=max_length, threads=1)


def torch_logits(source: Checkpoint, name: str, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return reference(source, PLANS[name])(torch.from_numpy(ids)[None]).logits[0].numpy()


def sequence(length: int, seed: int = 0) -> np.ndarray:
    return tokens(length, seed=seed).numpy()


def test_a_cache_that_memory_does_not_hold_is_refused_before_it_is_filled(
    sources: dict[str, Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant, name = CASES[0]
    export_onnx(tmp_path, pruned(sources[variant], PLANS[name]))
    monkeypatch.setattr(memory, "free_bytes", lambda: 1000)
    model = runner(tmp_path / "onnx" / "model.onnx")
    with pytest.raises(UserError, match="a KV cache of .* does not fit into .* Lower --max-batch"):
        model.fill(64)
    monkeypatch.setattr(kv_cache, "SUPPORTED", False)
    with pytest.raises(UserError, match="a KV cache of .* does not fit into .* Lower --max-batch"):
        runner(tmp_path / "onnx" / "model.onnx")


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.stat").write_text("anon 2000\nfile 700\n")
    assert memory.free_bytes(tmp_path) == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes(tmp_path) > 2**20


@pytest.mark.parametrize(("variant", "name"), CASES)
def test_prefill_chunks_and_ragged_decode_equal_torch(
    sources: dict[str, Checkpoint], tmp_path: Path, variant: str, name: str
) -> None:
    source = sources[variant]
    export_onnx(tmp_path, pruned(source, PLANS[name]))
    model = runner(tmp_path / "onnx" / "model.onnx")
    rows = [sequence(50, seed) for seed in range(3)]
    starts, expected = (5, 23, 1), [torch_logits(source, name, row) for row in rows]
    scale = max(1.0, float(np.abs(expected).max()))

    def close(got: np.ndarray, wanted: np.ndarray) -> None:
        np.testing.assert_allclose(got, wanted, atol=1e-5 * scale, rtol=0)

    for slot, (row, start) in enumerate(zip(rows, starts, strict=True)):
        if slot == 1:
            close(model.prefill(slot, row[:10], "all"), expected[slot][:10])
            close(model.prefill(slot, row[10:start], "all"), expected[slot][10:start])
        else:
            close(model.prefill(slot, row[:start]), expected[slot][start - 1 : start])
    for step in range(20):
        got = model.decode(np.array([row[start + step] for row, start in zip(rows, starts, strict=True)]))
        close(got, np.stack([wanted[start + step] for wanted, start in zip(expected, starts, strict=True)]))
    assert model.lengths.tolist() == [25, 43, 21, 0]


def test_results_do_not_depend_on_the_company(graph: Path) -> None:
    model, alone = runner(graph), runner(graph)
    rows = [sequence(length, seed) for seed, length in enumerate((3, 30, 1, 17))]
    for slot, row in enumerate(rows):
        model.prefill(slot, row)
    together = model.decode(np.array([7, 8, 9, 10]))
    for slot, row in enumerate(rows):
        alone.reset(0)
        alone.prefill(0, row)
        np.testing.assert_array_equal(alone.decode(np.array([7 + slot]))[0], together[slot])


def test_moved_slots_go_on_and_reset_slots_start_anew(graph: Path) -> None:
    model, plain = runner(graph), runner(graph)
    row = sequence(20)
    plain.prefill(0, row)
    model.prefill(0, sequence(40, seed=5))
    model.prefill(3, row)
    model.move(3, 0)
    assert model.lengths.tolist() == [20, 0, 0, 0]
    model.move(0, 0)
    np.testing.assert_array_equal(model.decode(np.array([4])), plain.decode(np.array([4])))
    model.reset(0)
    np.testing.assert_array_equal(model.prefill(0, row), runner(graph).prefill(0, row))


def test_returned_logits_are_the_callers(graph: Path) -> None:
    model = runner(graph)
    first = model.decode(np.array([4]))
    kept = first.copy()
    model.decode(np.array([5]))
    np.testing.assert_array_equal(first, kept)


def test_lengths_can_be_set_to_time_a_context(graph: Path) -> None:
    model = runner(graph)
    model.lengths[:2] = 60
    assert np.isfinite(model.decode(np.array([1, 2]))).all()
    assert model.lengths.tolist() == [61, 61, 0, 0]


def test_sizes_follow_the_plan(graph: Path, sources: dict[str, Checkpoint]) -> None:
    model = runner(graph, max_batch=3, max_length=40)
    shape, subnet = sources["plain"].shape, PLANS["mixed"]
    assert model.vocab_size == VOCAB
    assert model.weight_bytes == shape.weight_bytes(subnet, 4)
    assert model.kv_bytes_per_token == shape.kv_bytes_per_token(subnet, 4)
    assert model.kv_cache_bytes == 3 * 40 * model.kv_bytes_per_token


def test_refusals_name_the_problem(graph: Path) -> None:
    model = runner(graph, max_length=8)
    with pytest.raises(UserError, match="9 new tokens exceed the slot's 8"):
        model.prefill(0, sequence(9))
    model.prefill(0, sequence(8))
    with pytest.raises(UserError, match="slot 0 is full: 8 of 8"):
        model.decode(np.array([1]))
    with pytest.raises(UserError, match="5 tokens for 4 slots"):
        model.decode(np.arange(5))
    for bad in (-1, VOCAB):
        with pytest.raises(UserError, match=f"token {bad} is outside the vocabulary of {VOCAB}"):
            model.prefill(1, np.array([3, bad]))
    for bad in (np.array([]), np.array([1.0]), np.ones((1, 2), np.int64)):
        with pytest.raises(UserError, match="non-empty row of integers"):
            model.prefill(1, bad)
    with pytest.raises(UserError, match="no slot 4"):
        model.prefill(4, sequence(2))
    with pytest.raises(UserError, match="no slot -1"):
        model.move(-1, 0)
    assert model.lengths.tolist() == [8, 0, 0, 0]


def test_impossible_sizes_and_wrong_files_are_refused(graph: Path, tmp_path: Path) -> None:
    for sizes in ({"max_length": 129}, {"max_length": 0}, {"max_batch": 0}):
        with pytest.raises(UserError, match="takes up to 128 positions"):
            runner(graph, **sizes)
    with pytest.raises(UserError, match="cannot load"):
        runner(tmp_path / "absent.onnx")
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(graph.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot load"):
        runner(damaged)
    foreign = tmp_path / "foreign.onnx"
    identity = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> g (float[1] x) => (float[1] y) { y = Identity(x) }'
    )
    foreign.write_bytes(identity.SerializeToString())
    with pytest.raises(UserError, match="not a `lathe-onnx/1` graph"):
        runner(foreign)


def test_threads_spin_within_a_run_alone(graph: Path) -> None:
    options = runner(graph).session.get_session_options()
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
