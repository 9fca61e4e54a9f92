"""Folders that the commands write, loaded by onnxruntime-genai as they are, tokenizer and all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime_genai as genai
import pytest
from transformers import AutoTokenizer

from lathe.artefact.modeling import register
from lathe.artefact.modeling.load import load_model
from lathe.artefact.onnx.graph_format import GRAPH
from lathe.artefact.onnx.runner import OnnxRunner
from support.compress_command import lathe

DEMO = Path(__file__).parents[2] / "demo"
CHAT = [{"role": "user", "content": "Where do ships sail?"}]


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained demo model, compressed, with a graph for genai."""
    out = tmp_path_factory.mktemp("artefact") / "out"
    options = (
        "--keep",
        "60%",
        "--export",
        "checkpoint,onnx,genai",
        "--evaluations",
        "1",
        "--method",
        "quick",
    )
    text = ("--calibration", str(DEMO / "heldout.txt"), "--calibration-tokens", "2048")
    done = lathe("compress", str(DEMO / "model"), "-o", str(out), *options, *text)
    assert done.exit_code == 0, done.stderr
    return out


def answer(folder: Path, prompt: str, length: int) -> list[int]:
    model = genai.Model(str(folder))
    params = genai.GeneratorParams(model)
    params.set_search_options(max_length=length)
    generator = genai.Generator(model, params)
    generator.append_tokens(genai.Tokenizer(model).encode(prompt))
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)]


def test_a_chat_is_that_of_transformers(artefact: Path) -> None:
    register()
    tokenizer, ours = AutoTokenizer.from_pretrained(artefact), genai.Tokenizer(genai.Model(str(artefact)))
    prompt = ours.apply_chat_template(json.dumps(CHAT), add_generation_prompt=True)
    assert prompt == tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    assert ours.encode(prompt).tolist() == ids["input_ids"][0].tolist()
    expected = load_model(artefact).generate(**ids, do_sample=False, max_length=120)[0].tolist()
    assert answer(artefact, prompt, 120) == expected


@pytest.mark.parametrize("options", [("--quantize", "int8"), ("--quantize", "int4", "--kv-cache", "int8")])
def test_an_artefact_is_rounded(artefact: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    """By the answers of Lathe's own engine."""
    text = ("--calibration", str(DEMO / "heldout.txt"), "--calibration-tokens", "512")
    given = (*options, *(text if "--kv-cache" in options else ()))
    done = lathe("export", str(artefact), "--to", "genai", *given, "-o", str(tmp_path / "out"))
    assert done.exit_code == 0, done.stderr
    prompt = "The library lends books to"
    ids = genai.Tokenizer(genai.Model(str(tmp_path / "out"))).encode(prompt)
    found = answer(tmp_path / "out", prompt, len(ids) + 24)
    runner = OnnxRunner(tmp_path / "out" / GRAPH, max_batch=1, max_length=128)
    expected = [*map(int, ids), int(runner.prefill(0, np.array(ids)).argmax())]
    while len(expected) < len(found):
        expected.append(int(runner.decode(np.array(expected[-1:])).argmax()))
    assert found == expected
