"""Prompts read in OpenVINO, answers decoded in ONNX Runtime: logits and greedy tokens stay as they were."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lathe.artefact.errors import UserError
from lathe.artefact.onnx.graph_format import GRAPH
from lathe.artefact.onnx.runner import OnnxRunner
from lathe.artefact.openvino.prompt_reader import OpenVinoReader
from lathe.compressor.export.onnx import export_onnx
from lathe.compressor.export.onnx.blockwise import Blockwise
from lathe.serving.launch import prompts
from lathe.serving.options import ServeOptions
from support.tiny_families import CASES, family_checkpoint, first_of_each, planned
from support.tiny_llama import tokens

LLAMA = "llama, plain"
LENGTH, PROMPT, NEW = 96, 75, 8
PIECES = (0, 33, 64, PROMPT)
EXACT = 1e-4
"""Of the spread of logits, in float32."""
ROUNDED = 0.05
"""With products whose inputs both engines round to 8 bits."""
BFLOAT16 = 0.02
WITHOUT = ("gemma2", "mixtral", "moe", "gpt_oss", "opt")
"""OpenVINO does not run them: see docs/compatibility.md."""
RUN = [case for case in CASES if not any(name in case for name in WITHOUT)]


def exported(directory: Path, case: str, plan: str, bits: int = 0) -> Path:
    source = family_checkpoint(directory / "dense", case, eos_token_id=1)
    job = first_of_each(source, planned(source, plan))
    export_onnx(directory, job, *([partial(Blockwise, bits=bits)] if bits else []))
    return directory / GRAPH


def answer(graph: Path, reader: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Logits after every token of a prompt in uneven pieces and of its greedy answer; the answer."""
    runner = OnnxRunner(graph, max_batch=2, max_length=LENGTH, threads=1)
    runner.prompt_reader = reader
    ids = tokens(PROMPT).numpy()
    runner.prefill(0, ids[:3])
    rows = [runner.prefill(1, ids[a:b], "all") for a, b in itertools.pairwise(PIECES)]
    said = [int(rows[-1][-1].argmax())]
    for _ in range(NEW):
        rows.append(runner.decode(np.array([0, said[-1]]))[1:])
        said.append(int(rows[-1].argmax()))
    return np.concatenate(rows), np.array(said)


def difference(graph: Path, reader: OpenVinoReader) -> tuple[float, bool]:
    """The root mean square of the logits' differences over their spread; whether the answers are the same."""
    (expected, greedy), (found, said) = answer(graph), answer(graph, reader)
    rows = slice(None) if np.array_equal(greedy, said) else slice(PROMPT)
    apart = np.sqrt(np.square(found - expected)[rows].mean()) / expected.std()
    return float(apart), bool(np.array_equal(greedy, said))


def reader_of(graph: Path, half: bool = False) -> OpenVinoReader:
    return OpenVinoReader(graph, 128, 1, half=half)


@pytest.mark.parametrize("plan", ["mixed", "no attention first"])
@pytest.mark.parametrize("case", RUN)
def test_every_family_in_float32(tmp_path: Path, case: str, plan: str) -> None:
    graph = exported(tmp_path, case, plan)
    assert difference(graph, reader_of(graph)) == (pytest.approx(0, abs=EXACT), True)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("half", [False, True])
def test_rounded_weights(tmp_path: Path, bits: int, half: bool) -> None:
    graph = exported(tmp_path, LLAMA, "mixed", bits)
    apart, _ = difference(graph, reader_of(graph, half))
    assert 0 < apart < ROUNDED


def test_bfloat16(tmp_path: Path) -> None:
    graph = exported(tmp_path, LLAMA, "mixed")
    apart, _ = difference(graph, reader_of(graph, half=True))
    assert apart < BFLOAT16


def test_what_others_read_does_not_matter(tmp_path: Path) -> None:
    """The bits of an answer are its own: other lengths, pasts and slots in between change nothing."""
    graph = exported(tmp_path, LLAMA, "mixed")
    reader = reader_of(graph)
    first = answer(graph, reader)[0]
    runner = OnnxRunner(graph, max_batch=2, max_length=LENGTH, threads=1)
    runner.prompt_reader = reader
    for count in (5, 40, 64):
        runner.prefill(0, tokens(count, seed=count).numpy())
        runner.reset(0)
    np.testing.assert_array_equal(answer(graph, reader)[0], first)


def test_pieces_that_do_not_fit_are_left_to_onnx_runtime(tmp_path: Path) -> None:
    graph = exported(tmp_path, LLAMA, "dense")
    reader = OpenVinoReader(graph, 128, 1, half=False)
    assert reader.takes(64, 33)
    assert not reader.takes(65, 33)
    reader.least = 34
    assert not reader.takes(0, 33)


def test_a_graph_that_it_does_not_run_is_one_sentence(tmp_path: Path) -> None:
    graph = exported(tmp_path, "gemma2", "dense")
    with pytest.raises(UserError, match=r"OpenVINO cannot run .*model.onnx: .*\. Give --prompts onnxruntime"):
        reader_of(graph)


def test_the_server_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path / "cache"))
    graph = exported(tmp_path, LLAMA, "mixed")
    for asked in ("openvino", "openvino-bf16"):
        runner = OnnxRunner(graph, max_batch=1, max_length=128, threads=1)
        options = ServeOptions(out=tmp_path, prompts=asked, threads=1)  # type: ignore[arg-type]
        assert prompts.read_prompts(runner, graph, "digest", options) == asked
        assert isinstance(runner.prompt_reader, OpenVinoReader)
    runner = OnnxRunner(graph, max_batch=1, max_length=128, threads=1)
    options = ServeOptions(out=tmp_path, prompts="auto", threads=1)
    assert prompts.read_prompts(runner, graph, "digest", options) in ("openvino", "onnxruntime")
