"""A device with memory of its own: the same path on the CPU, and what is said where there is no GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from lathe.artefact.errors import UserError
from lathe.artefact.onnx.device import CPU, CUDA, Device, check_used
from lathe.artefact.onnx.kv_cache import Cache, DeviceCache, allocate
from lathe.artefact.onnx.runner import OnnxRunner, open_session
from lathe.compressor.export import exporters
from lathe.compressor.export.onnx import export_onnx
from lathe.serving.launch.registry import serve_with
from lathe.serving.options import ServeOptions
from support.tiny_families import family_checkpoint, first_of_each, planned, zeroed
from support.tiny_llama import PLANS, checkpoint, pruned, tokens

APART = replace(CPU, shares_memory=False)
"""Caches in ONNX Runtime's own memory, inputs bound anew for every run."""
HALF = replace(APART, half=True)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("mixed")
    source = checkpoint(directory / "dense", tie_word_embeddings=True)
    export_onnx(directory, pruned(source, PLANS["heads per group"]))
    return directory / "onnx" / "model.onnx"


def runner(graph: Path, device: Device) -> OnnxRunner:
    return OnnxRunner(graph, max_batch=4, max_length=64, threads=1, device=device)


def conversation(model: OnnxRunner) -> list[np.ndarray]:
    """Chunked prefills, ragged decoding, slots that move and begin anew."""
    rows = [tokens(50, seed=seed).numpy() for seed in range(3)]
    seen = [model.prefill(0, rows[0][:7]), model.prefill(2, rows[2][:30], "all")]
    seen += [model.prefill(1, rows[1][:4]), model.prefill(1, rows[1][4:11], "all")]
    seen += [model.decode(np.array([row[at] for row in rows])) for at in range(40, 44)]
    model.move(2, 0)
    model.reset(2)
    seen += [model.prefill(2, rows[0][:5]), model.decode(np.array([5, 6, 7]))]
    assert model.lengths.tolist() == [35, 16, 6, 0]
    return seen


def test_memory_apart_changes_no_bit(graph: Path) -> None:
    expected, got = (conversation(runner(graph, device)) for device in (CPU, APART))
    for one, other in zip(expected, got, strict=True):
        np.testing.assert_array_equal(one, other)


def test_float16_is_near_and_half_the_size(graph: Path) -> None:
    whole, half = runner(graph, CPU), runner(graph, HALF)
    assert half.weight_bytes < 0.52 * whole.weight_bytes
    assert 2 * half.kv_cache_bytes == whole.kv_cache_bytes
    for one, other in zip(conversation(whole), conversation(half), strict=True):
        assert other.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=0.01 * np.abs(one).max())


@pytest.mark.parametrize("device", [CPU, APART], ids=["host", "apart"])
def test_what_was_kept_of_a_slot_goes_on_in_another(graph: Path, device: Device) -> None:
    model, plain = runner(graph, device), runner(graph, CPU)
    row = tokens(30).numpy()
    plain.prefill(0, row[:8])
    plain.prefill(0, row[8:16])
    model.prefill(1, row[:8])
    model.prefill(1, row[8:16])
    parts = [model.copy_kv(1, 0, 8), model.copy_kv(1, 8, 16)]
    model.reset(1)
    model.prefill(1, row[::-1].copy())
    with pytest.raises(UserError, match="kept from 8 on do not follow 0"):
        model.append_kv(2, parts[1])
    for part in parts:
        model.append_kv(2, part)
    np.testing.assert_array_equal(model.prefill(2, row[16:], "all"), plain.prefill(0, row[16:], "all"))
    assert model.lengths.tolist() == [0, 30, 30, 0]


def test_rounded_weights_in_float16(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "dense")
    exporters.get("onnx-int4").write(tmp_path, pruned(source, PLANS["mixed"]))
    graph, ids = tmp_path / "onnx" / "model.onnx", tokens(20).numpy()
    expected, got = (runner(graph, device).prefill(0, ids, "all") for device in (CPU, HALF))
    np.testing.assert_allclose(got, expected, atol=0.04 * np.abs(expected).max())


@pytest.mark.parametrize("case", ["opt", "qwen3, biased"])
def test_other_families_in_float16(case: str, tmp_path: Path) -> None:
    source = family_checkpoint(tmp_path / "dense", case)
    plan = planned(source, "mixed")
    export_onnx(tmp_path, first_of_each(source, plan))
    ids = tokens(20).numpy()
    with torch.no_grad():
        expected = zeroed(source, plan)(torch.from_numpy(ids)[None]).logits[0].numpy()
    got = runner(tmp_path / "onnx" / "model.onnx", HALF).prefill(0, ids, "all")
    np.testing.assert_allclose(got, expected, atol=0.01 * np.abs(expected).max())


def test_what_lies_apart_has_slots_of_its_own(graph: Path) -> None:
    session, _ = open_session(graph, 1, APART)
    caches: list[Cache] = list(allocate(session, APART, 3, 10).values())
    assert all(isinstance(cache, DeviceCache) for cache in caches)
    assert {cache.slot_bytes for cache in caches} == {4 * 10 * 16 * 4}


@pytest.fixture
def without_cuda() -> None:
    if CUDA.provider in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")


@pytest.mark.usefixtures("without_cuda")
def test_an_onnx_runtime_without_cuda_says_how_to_get_it(artefact_dir: Path) -> None:
    with pytest.raises(UserError, match=r"no CUDAExecutionProvider.*onnxruntime-gpu"):
        serve_with("onnx", artefact_dir, ServeOptions(out=artefact_dir, port=0, device="cuda"))


def test_falling_back_to_the_cpu_is_refused(graph: Path) -> None:
    session, _ = open_session(graph, 1)
    check_used(session, CPU)
    with pytest.raises(UserError, match="cannot use its CUDAExecutionProvider"):
        check_used(session, CUDA)
