"""Equal pages are kept once: writing to one changes no other, and runners compute what they did."""

from __future__ import annotations

import mmap
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lathe.artefact.onnx.equal_pages import EqualPages
from lathe.artefact.onnx.pages import PAGE, SUPPORTED
from lathe.artefact.onnx.runner import OnnxRunner
from lathe.artefact.onnx.runners_together import open_together
from lathe.compressor.export.onnx import export_onnx
from support.tiny_llama import PLANS, checkpoint, pruned, tokens

only_linux = pytest.mark.skipif(not SUPPORTED, reason="maps pages of this process: Linux")


def block(content: np.ndarray) -> np.ndarray:
    """A copy in pages of its own, as an engine takes them."""
    found = np.frombuffer(mmap.mmap(-1, content.nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)
    found[:] = content
    return found


def mapped(array: np.ndarray) -> bool:
    """Whether the middle of an array is a map of the file."""
    middle = array.ctypes.data + array.nbytes // 2
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(part, 16) for part in line.split()[0].split("-"))
        if first <= middle < last:
            return "lathe-equal-pages" in line
    return False


@only_linux
def test_a_prefix_is_kept_once_and_written_to_by_itself() -> None:
    wide = np.random.default_rng(0).integers(0, 256, 300 * PAGE, np.uint8)
    with EqualPages() as pages:
        first = block(wide)
        second, other = block(wide[: 200 * PAGE]), block(wide[::-1].copy())
        pages.merge()
        third = block(wide[: 100 * PAGE])
        pages.merge()
    assert pages.saved > 270 * PAGE
    assert mapped(first[: 200 * PAGE])
    assert mapped(second)
    assert mapped(third)
    assert not mapped(other)
    for found, expected in ((first, wide), (second, wide[: 200 * PAGE]), (third, wide[: 100 * PAGE])):
        assert np.array_equal(found, expected)
    second[50 * PAGE] ^= 1
    assert np.array_equal(first, wide)
    assert np.array_equal(third, wide[: 100 * PAGE])
    assert second[50 * PAGE] == wide[50 * PAGE] ^ 1


def test_runners_that_are_opened_together_compute_what_they_compute_alone(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "dense")
    openings = {}
    for name in ("dense", "mixed"):
        export_onnx(tmp_path / name, replace(pruned(source, PLANS[name]), nested=True))
        graph = tmp_path / name / "onnx" / "model.onnx"
        openings[name] = partial(OnnxRunner, graph, max_batch=1, max_length=32, threads=1)
    prompt = tokens(12).numpy()
    for name, runner in open_together(openings).items():
        assert np.array_equal(runner.prefill(0, prompt), openings[name]().prefill(0, prompt))
