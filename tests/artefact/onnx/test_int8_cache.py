"""A cache of the graph's own type: its bytes, and slots that are moved, kept and put back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lathe.artefact.errors import UserError
from lathe.artefact.onnx.device import CPU
from lathe.artefact.onnx.runner import OnnxRunner
from lathe.compressor.export.onnx import export_onnx
from lathe.compressor.model.cache_rounding import CacheScales
from support.tiny_llama import HEAD_DIM, PLANS, checkpoint, pruned, tokens

PLAN = PLANS["groups"]
KV_HEADS = sum(layer.kv_heads for layer in PLAN)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("int8")

    def scales(index: int) -> CacheScales:
        generator = torch.Generator().manual_seed(index)
        rows = 0.01 + 0.02 * torch.rand(2, PLAN[index].kv_heads, HEAD_DIM, generator=generator)
        return CacheScales(rows[0], rows[1])

    export_onnx(directory, replace(pruned(checkpoint(directory / "dense"), PLAN), cache_scales=scales))
    return directory / "onnx" / "model.onnx"


def runner(graph: Path, slots: int = 4) -> OnnxRunner:
    return OnnxRunner(graph, max_batch=slots, max_length=64, threads=1)


def alone(graph: Path, prompt: np.ndarray, steps: np.ndarray) -> list[np.ndarray]:
    model = runner(graph, 1)
    return [model.prefill(0, prompt)[0], *(model.decode(step[None])[0] for step in steps)]


def test_a_value_takes_a_byte(graph: Path) -> None:
    model = runner(graph)
    assert model.kv_bytes_per_token == 2 * KV_HEADS * HEAD_DIM
    assert model.kv_cache_bytes == 4 * 64 * model.kv_bytes_per_token
    model.prefill(2, tokens(9).numpy())
    kept = model.copy_kv(2, 0, 9)[2]
    assert {part.dtype for part in kept} == {np.dtype(np.int8)}
    assert sum(part.nbytes for part in kept) == 9 * model.kv_bytes_per_token
    assert all(len(np.unique(part)) > 20 for part in kept)


def test_slots_in_one_batch_are_as_each_alone(graph: Path) -> None:
    model, rows = runner(graph), [tokens(40, seed=seed).numpy() for seed in range(3)]
    lengths = (30, 5, 17)
    found = [
        [model.prefill(slot, row[:n])[0]] for slot, (row, n) in enumerate(zip(rows, lengths, strict=True))
    ]
    for step in range(6):
        logits = model.decode(np.array([row[n + step] for row, n in zip(rows, lengths, strict=True)]))
        for own, new in zip(found, logits, strict=True):
            own.append(new)
    for row, n, got in zip(rows, lengths, found, strict=True):
        np.testing.assert_array_equal(got, alone(graph, row[:n], row[n : n + 6]))


def test_a_slot_that_moved_or_was_put_back_goes_on(graph: Path) -> None:
    row = tokens(30).numpy()
    expected = alone(graph, row[:20], row[20:24])
    model = runner(graph)
    model.prefill(3, row[:20])
    kept = model.copy_kv(3, 0, 20)
    model.prefill(0, row[::-1].copy())
    model.move(3, 0)
    moved = [model.decode(token[None])[0] for token in row[20:24]]
    model.prefill(2, row[5:])
    model.reset(2)
    model.append_kv(2, kept)
    model.move(2, 0)
    back = [model.decode(token[None])[0] for token in row[20:24]]
    np.testing.assert_array_equal(moved, expected[1:])
    np.testing.assert_array_equal(back, expected[1:])


def test_a_device_that_computes_in_float16_is_refused(graph: Path) -> None:
    with pytest.raises(UserError, match="has an int8 KV cache, which is for the processor"):
        OnnxRunner(graph, max_batch=1, max_length=8, device=replace(CPU, half=True))
