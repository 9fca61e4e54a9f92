"""The export for onnxruntime-genai: what is written and refused. That it runs is tested in tests/on_genai."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lathe.artefact.errors import UserError
from lathe.artefact.onnx.graph_format import GRAPH, GRAPH_DATA
from lathe.artefact.onnx.runner import OnnxRunner
from lathe.compressor.export.genai import add_genai
from lathe.compressor.export.genai.config import GENAI_CONFIG, GENAI_GRAPH, genai_config
from lathe.compressor.export.genai.parity import check_masked
from lathe.compressor.export.onnx import export_onnx
from lathe.compressor.model.checkpoint import Checkpoint, open_checkpoint
from support.compress_command import Tiny, lathe
from support.masked_graph import MaskedGraph
from support.tiny_llama import HEAD_DIM, PLANS, VOCAB, checkpoint, pruned, tokens

LENGTH = 48


@pytest.fixture
def source(tmp_path: Path) -> Checkpoint:
    return checkpoint(tmp_path / "dense", eos_token_id=1)


def served(artefact: Path, prompt: np.ndarray, count: int) -> list[int]:
    """The likeliest tokens by Lathe's own engine."""
    runner = OnnxRunner(artefact / GRAPH, max_batch=1, max_length=LENGTH, threads=1)
    found = [int(runner.prefill(0, prompt).argmax())]
    while len(found) < count:
        found.append(int(runner.decode(np.array(found[-1:])).argmax()))
    return found


def same_answers(artefact: Path) -> bool:
    """Whether a padded batch of the masked graph answers as Lathe's engine does row by row."""
    prompts = [tokens(20).numpy(), tokens(7, seed=2).numpy()]
    graph = MaskedGraph(artefact / GENAI_GRAPH, prompts, LENGTH)
    return graph.greedy(12) == [served(artefact, prompt, 12) for prompt in prompts]


def test_the_graph_has_a_mask_and_the_same_weights(tmp_path: Path, source: Checkpoint) -> None:
    export_onnx(tmp_path, pruned(source, PLANS["mixed"]))
    before = {file.name: file.stat().st_size for file in (tmp_path / "onnx").iterdir()}
    add_genai(tmp_path, source)
    model = onnx.load(tmp_path / GENAI_GRAPH, load_external_data=False)
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*model.graph.input, *model.graph.output]
    }
    caches = {
        f"{side}.{layer}.{part}": ["batch", heads, "max_length", HEAD_DIM]
        for side in ("past_key_values", "present")
        for layer, heads in ((1, 3), (3, 2))
        for part in ("key", "value")
    }
    ids = {"input_ids": ["batch", "sequence"], "attention_mask": ["batch", "total"]}
    assert shapes == ids | {"logits": ["batch", 1, VOCAB]} | caches
    after = {file.name: file.stat().st_size for file in (tmp_path / "onnx").iterdir()}
    assert before == {name: size for name, size in after.items() if name != "genai.onnx"}
    assert after["genai.onnx"] < 1.1 * before["model.onnx"]
    with pytest.raises(UserError, match="not a `lathe-onnx/1` graph"):
        OnnxRunner(tmp_path / GENAI_GRAPH, max_batch=1, max_length=1)


def test_a_conversation_goes_on_in_pieces(tmp_path: Path, source: Checkpoint) -> None:
    export_onnx(tmp_path, pruned(source, PLANS["groups"]))
    add_genai(tmp_path, source)
    ids = tokens(30).numpy()
    expected = OnnxRunner(tmp_path / GRAPH, max_batch=1, max_length=LENGTH).prefill(0, ids, "all")
    graph, at = MaskedGraph(tmp_path / GENAI_GRAPH, [ids[:9]], LENGTH), 9
    for count in (4, 1, 16):
        at += count
        found = graph.append(ids[None, at - count : at])
        np.testing.assert_allclose(found[0], expected[at - 1], atol=2e-5, rtol=0)


GENERATION: dict[str, Any] = {
    "bos_token_id": 3,
    "eos_token_id": [7, 5],
    "do_sample": True,
    "temperature": 0.6,
    "top_k": 500,
    "top_p": 0.9,
    "repetition_penalty": None,
}


def test_the_config_says_what_the_model_and_generation_config_do(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "dense", eos_token_id=1, pad_token_id=4)
    (source.path / "generation_config.json").write_text(json.dumps(GENERATION))
    config = genai_config(source)
    model, decoder = config["model"], config["model"]["decoder"]
    ids = {name: model[f"{name}_token_id"] for name in ("bos", "eos", "pad")}
    assert ids == {"bos": 3, "eos": [7, 5], "pad": 4}
    assert (model["type"], model["vocab_size"], model["context_length"]) == ("decoder", VOCAB, 128)
    assert decoder["filename"] == GENAI_GRAPH
    sizes = ("hidden_size", "head_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    assert [decoder[name] for name in sizes] == [64, HEAD_DIM, 4, 8, 4]
    assert config["search"] == {
        "max_length": 128,
        "past_present_share_buffer": True,
        "do_sample": True,
        "temperature": 0.6,
        "top_k": VOCAB,
        "top_p": 0.9,
        "repetition_penalty": 1.0,
    }


@pytest.mark.parametrize(
    ("settings", "ends", "padding"),
    [
        ({"eos_token_id": 1}, [1], 1),
        ({"eos_token_id": [1, VOCAB, 2], "pad_token_id": -1}, [1, 2], 1),
        ({"eos_token_id": [6, 2], "pad_token_id": 0}, [6, 2], 0),
    ],
)
def test_ends_and_padding_are_tokens_of_the_vocabulary(
    tmp_path: Path, settings: dict[str, Any], ends: list[int], padding: int
) -> None:
    source = checkpoint(tmp_path / "dense", **settings)
    (source.path / "generation_config.json").unlink()
    model = genai_config(source)["model"]
    assert (model["eos_token_id"], model["pad_token_id"]) == (ends, padding)
    assert "bos_token_id" not in model


def test_a_model_whose_answers_do_not_end_is_refused(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "dense")
    done = lathe("export", str(source.path), "--to", "genai", "-o", str(tmp_path / "out"))
    assert done.exit_code == 1
    assert "dense names no token that ends an answer" in done.stderr
    assert "`eos_token_id` in generation_config.json" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["dense"]


def test_a_graph_of_other_weights_does_not_pass(tmp_path: Path, source: Checkpoint) -> None:
    for name, plan in (("one", "mixed"), ("other", "groups")):
        export_onnx(tmp_path / name, pruned(source, PLANS[plan]))
        add_genai(tmp_path / name, source)
    check_masked(tmp_path / "one" / GRAPH, tmp_path / "one" / GENAI_GRAPH)
    with pytest.raises(UserError, match="disagree by"):
        check_masked(tmp_path / "one" / GRAPH, tmp_path / "other" / GENAI_GRAPH)


@pytest.mark.parametrize("options", [(), ("--quantize", "int8"), ("--quantize", "int4")], ids=str)
def test_the_command_writes_a_dense_model(tiny: Tiny, tmp_path: Path, options: tuple[str, ...]) -> None:
    done = lathe("export", str(tiny.model), "--to", "genai", *options, "-o", str(tmp_path / "out"))
    assert done.exit_code == 0, done.stderr
    assert same_answers(tmp_path / "out")
    listed = json.loads((tmp_path / "out" / "manifest.json").read_text())["files"]
    needed = {GENAI_CONFIG, GENAI_GRAPH, GRAPH_DATA, "tokenizer.json", "tokenizer_config.json"}
    assert needed | {"chat_template.jinja"} <= listed.keys()


def test_a_cache_can_be_int8(tiny: Tiny, tmp_path: Path) -> None:
    text = ("--calibration", str(tiny.text), "--calibration-tokens", "512")
    options = ("--to", "genai", "--kv-cache", "int8", "--quantize", "int8", *text)
    done = lathe("export", str(tiny.model), *options, "-o", str(tmp_path / "out"))
    assert done.exit_code == 0, done.stderr
    model = onnx.load(tmp_path / "out" / GENAI_GRAPH, load_external_data=False)
    kinds = {value.type.tensor_type.elem_type for value in model.graph.input if "past" in value.name}
    assert kinds == {onnx.TensorProto.INT8}
    assert same_answers(tmp_path / "out")


def test_an_artefact_with_a_graph_is_copied(tiny: Tiny, tmp_path: Path) -> None:
    """Of a dense model, whose weights are not there, as of a subnet."""
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    assert lathe("export", str(tiny.model), "--quantize", "int4", "-o", str(first)).exit_code == 0
    done = lathe("export", str(first), "--to", "genai", "-o", str(second))
    assert done.exit_code == 0, done.stderr
    assert (second / GRAPH_DATA).read_bytes() == (first / GRAPH_DATA).read_bytes()
    assert same_answers(second)
    shutil.move(first / "onnx", tmp_path / "onnx")
    done = lathe("export", str(first), "--to", "genai", "-o", str(third))
    assert (done.exit_code, third.exists()) == (1, False)


def test_a_graph_that_came_with_a_model_is_not_taken_for_lathes(tiny: Tiny, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny.model, tmp_path / "model"))
    (model / "onnx").mkdir()
    (model / "onnx" / "model.onnx").write_bytes(b"someone else's")
    done = lathe("export", str(model), "--to", "genai", "-o", str(tmp_path / "out"))
    assert done.exit_code == 0, done.stderr
    assert same_answers(tmp_path / "out")


def test_compress_adds_to_the_graph_that_it_measures(tiny: Tiny, tmp_path: Path) -> None:
    out, copy = tmp_path / "out", tmp_path / "copy"
    options = ("--keep", "60%", "--quantize", "int8", "--method", "quick")
    done = tiny.compress(out, *options, "--export", "genai")
    assert done.exit_code == 0, done.stderr
    assert same_answers(out)
    assert genai_config(open_checkpoint(str(tiny.model))) == json.loads((out / GENAI_CONFIG).read_text())
    done = lathe("export", str(out), "--to", "genai", "-o", str(copy))
    assert done.exit_code == 0, done.stderr
    for name in (GENAI_GRAPH, GENAI_CONFIG, GRAPH_DATA):
        assert (copy / name).read_bytes() == (out / name).read_bytes(), name


def test_compress_refuses_before_it_reads_weights(tmp_path: Path, tiny: Tiny) -> None:
    model = Path(shutil.copytree(tiny.model, tmp_path / "model"))
    for file in ("config.json", "generation_config.json"):
        found = json.loads((model / file).read_text())
        (model / file).write_text(json.dumps(found | {"eos_token_id": None}))
    done = lathe("compress", str(model), "-o", str(tmp_path / "out"), "--keep", "60%", "--export", "genai")
    assert done.exit_code == 1
    assert "names no token that ends an answer" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_a_subnet_without_a_graph_is_refused(tmp_path: Path, source: Checkpoint) -> None:
    out = tmp_path / "out"
    assert lathe("export", str(source.path), "--to", "checkpoint", "-o", str(out)).exit_code == 0
    done = lathe("export", str(out), "--to", "genai", "-o", str(tmp_path / "copy"))
    assert done.exit_code == 1
    assert "is a subnet already, which can only be exported --to gguf or vllm" in done.stderr
    assert "--export genai" in done.stderr
