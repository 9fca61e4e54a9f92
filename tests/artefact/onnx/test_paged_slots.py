"""Slots that take pages: what they take is what the system says, and no bit of what they compute changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lathe.artefact.onnx import kv_cache, pages, slot_memory
from lathe.artefact.onnx.runner import OnnxRunner
from lathe.compressor.export.onnx import export_onnx
from lathe.compressor.model.cache_rounding import CacheScales
from support.tiny_llama import HEAD_DIM, PLANS, VOCAB, checkpoint, pruned, tokens

pytestmark = pytest.mark.skipif(not pages.SUPPORTED, reason="memory is taken in pages on Linux")
SLOTS, LENGTH, CHUNK = 4, 500, 128
PLAN = PLANS["groups"]
ROWS = 2 * sum(layer.kv_heads for layer in PLAN)
"""Heads of keys and of values."""


@pytest.fixture(scope="module", params=["float32", "int8"])
def graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp(request.param)
    model = pruned(checkpoint(directory / "dense", max_position_embeddings=512), PLAN)
    if request.param == "int8":
        rows = [torch.full((layer.kv_heads, HEAD_DIM), 0.02) for layer in PLAN]
        model = replace(model, cache_scales=lambda index: CacheScales(rows[index], rows[index]))
    export_onnx(directory, model)
    return directory / "onnx" / "model.onnx"


def runner(graph: Path, slots: int = SLOTS) -> OnnxRunner:
    return OnnxRunner(graph, max_batch=slots, max_length=LENGTH, threads=1)


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], OnnxRunner]:
    """Makes a runner that takes all memory at the start."""

    def make(graph: Path) -> OnnxRunner:
        with monkeypatch.context() as patch:
            patch.setattr(kv_cache, "SUPPORTED", False)
            model = runner(graph)
        assert not model.takes_pages
        return model

    return make


def resident(model: OnnxRunner, *, own: bool = False) -> int:
    """The bytes that the system has for the caches' addresses; `own`: without those of a file."""
    present, of_a_file = np.uint64(1 << 63), np.uint64(1 << 61)
    total = 0
    with Path("/proc/self/pagemap").open("rb", buffering=0) as table:
        for cache in model._caches.values():
            table.seek(cache.address // pages.PAGE * 8)
            found = np.frombuffer(table.read(cache.nbytes // pages.PAGE * 8), np.uint64)
            total += int(np.count_nonzero((found & present > 0) & ~(own & (found & of_a_file > 0))))
    return total * pages.PAGE


def page_bytes(model: OnnxRunner, slot_tokens: list[int]) -> int:
    page = model._memory.page_tokens
    return sum(-(-count // page) for count in slot_tokens) * ROWS * pages.PAGE


def test_memory_follows_the_tokens_and_is_given_back(graph: Path) -> None:
    model = runner(graph)
    assert model.takes_pages
    assert resident(model) == 0
    model.prefill(0, tokens(70).numpy())
    model.prefill(1, tokens(130).numpy())
    model.prefill(1, tokens(130).numpy())
    model.prefill(2, tokens(1).numpy())
    model.decode(np.array([1, 2, 3]))
    assert resident(model) == page_bytes(model, [71, 261, 2])
    model.move(2, 1)
    assert resident(model) == page_bytes(model, [71, 2, 2])
    model.reset(0)
    assert resident(model) == page_bytes(model, [71, 2, 2])
    for slot in range(SLOTS):
        model.release(slot)
    assert resident(model) == page_bytes(model, [2])
    assert model.lengths.tolist() == [0, 2, 0, 0]
    model.reset(1)
    model.release(1, keep=1)
    assert resident(model) == page_bytes(model, [1])


def test_what_is_told_is_what_is_taken(graph: Path) -> None:
    model = runner(graph)
    page = model._memory.page_tokens
    for slot, count in ((0, 3), (1, 250)):
        model.prefill(slot, tokens(count).numpy())
        held = model.held_bytes(slot)
        assert held == model.kv_bytes(count) == -(-count // page) * page * model.kv_bytes_per_token
    assert sum(map(model.held_bytes, range(SLOTS))) == resident(model)
    assert model.kv_bytes(LENGTH) * SLOTS == model.kv_cache_bytes
    model.fill(LENGTH)
    assert sum(map(model.held_bytes, range(SLOTS))) == model.kv_cache_bytes <= resident(model)


def test_a_beginning_is_kept_once_however_many_slots_have_it(graph: Path) -> None:
    model, row = runner(graph), tokens(LENGTH, seed=1).numpy()
    kept = []
    for start in (0, CHUNK):
        model.prefill(0, row[start : start + CHUNK])
        kept.append(model.keep_kv(0, start, start + CHUNK))
    once, page = 2 * CHUNK * model.kv_bytes_per_token, model._memory.page_tokens
    assert model.kept_bytes == once
    assert (model.held_bytes(0), model.shared_bytes(0), resident(model, own=True)) == (0, once, 0)
    alone = runner(graph)
    for slot in range(1, SLOTS):
        model.restore_kv(slot, kept, 2 * CHUNK)
    for slot in range(SLOTS):
        alone.reset(0)
        for start in (0, CHUNK):
            alone.prefill(0, row[start : start + CHUNK])
        more = tokens(9 + slot, seed=slot).numpy()
        np.testing.assert_array_equal(model.prefill(slot, more, "all"), alone.prefill(0, more, "all"))
    assert resident(model, own=True) == page_bytes(model, [page] * SLOTS)
    assert model.kept_bytes == once
    kept.clear()
    for slot in range(SLOTS - 1):
        model.reset(slot)
    assert model.kept_bytes == once  # the last slot has it
    model.move(SLOTS - 1, 0)
    np.testing.assert_array_equal(model.decode(np.array([5])), alone.decode(np.array([5])))
    assert (model.shared_bytes(0), model.shared_bytes(SLOTS - 1)) == (once, 0)
    model.reset(0)
    assert model.kept_bytes == 0
    for slot in range(SLOTS):
        model.release(slot)
    assert resident(model) == 0


class Twins:
    """Two runners that are told the same, and what each of them kept."""

    def __init__(self, *models: OnnxRunner) -> None:
        self.models = models
        self.kept: list[tuple[list[np.ndarray], list[list[Any]]]] = []

    def each(self, name: str, *arguments: Any) -> None:
        results = [getattr(model, name)(*arguments) for model in self.models]
        if results[0] is not None:
            np.testing.assert_array_equal(results[0], results[1])

    def begin(self, slot: int, prompt: np.ndarray, chunk: int, known: int) -> None:
        """Reads a prompt in chunks, the first of which are those of an earlier one; keeps the others."""
        parts = [prompt[start : start + chunk] for start in range(0, len(prompt) - chunk, chunk)]
        found, twins = [], [list[Any]() for _ in self.models]
        for tokens_before, kept in self.kept:
            same = [np.array_equal(a, b) for a, b in zip(parts, tokens_before, strict=False)]
            count = min(known, same.index(False) if False in same else len(same))
            if count > len(found):
                found, twins = parts[:count], [list(part[:count]) for part in kept]
        self.each("reset", slot)
        for model, own in zip(self.models, twins, strict=True):
            model.restore_kv(slot, own, len(found) * chunk)
        for index in range(len(found), len(parts)):
            self.each("prefill", slot, parts[index])
            for model, own in zip(self.models, twins, strict=True):
                own.append(model.keep_kv(slot, index * chunk, (index + 1) * chunk))
        self.each("prefill", slot, prompt[len(parts) * chunk :], "all")
        self.kept.append((parts, twins))


@pytest.mark.parametrize(("chunk", "mappings"), [(64, None), (48, None), (64, 0), (64, 300)])
def test_any_order_of_calls_gives_the_same_bits(
    graph: Path,
    whole: Callable[[Path], OnnxRunner],
    chunk: int,
    mappings: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """48 tokens fill no whole pages; mappings that the system has no room for are copies."""
    if mappings is not None:
        monkeypatch.setattr(slot_memory, "max_mappings", lambda: mappings)
    random = np.random.default_rng(chunk)
    stems = [random.integers(0, VOCAB, 400) for _ in range(2)]
    twins, shared = Twins(runner(graph), whole(graph)), 0
    for _ in range(80):
        slot, other = map(int, random.integers(0, SLOTS, 2))
        what = random.choice(["begin", "begin", "decode", "decode", "move", "release", "forget"])
        if what == "begin":
            stem = stems[random.integers(2)][: random.integers(0, 400)]
            twins.begin(slot, np.append(stem, random.integers(0, VOCAB, 9)), chunk, random.integers(0, 6))
        elif what == "decode" and twins.models[0].lengths.max() < LENGTH - 10:
            for _ in range(random.integers(1, 10)):
                twins.each("decode", random.integers(0, VOCAB, SLOTS))
        elif what == "move":
            twins.each("move", slot, other)
        elif what == "release":
            twins.each("release", slot, int(random.integers(0, 100)))
        elif twins.kept:
            twins.kept.pop(random.integers(len(twins.kept)))
        shared += sum(map(twins.models[0].shared_bytes, range(SLOTS)))
    assert bool(shared) == (mappings != 0)
    twins.kept.clear()
    for slot in range(SLOTS):
        twins.each("reset", slot)
        twins.each("release", slot)
    assert twins.models[0].kept_bytes == resident(twins.models[0]) == 0


def test_a_line_of_the_store_is_used_again(graph: Path) -> None:
    model, sizes = runner(graph), []
    for seed in range(6):
        model.prefill(0, tokens(CHUNK, seed=seed).numpy())
        kept = model.keep_kv(0, 0, CHUNK)
        sizes.append(model._memory._store._lines)
        model.reset(0)
        del kept
    assert sizes == [1] * 6
