"""A GGUF file's model gives the logits of transformers' own with the same, dequantized weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import AutoModelForCausalLM

from lathe.compressor.model.checkpoint import open_checkpoint, opened
from lathe.compressor.model.families import families
from lathe.compressor.model.gguf import checkpoint_directory
from lathe.compressor.model.gguf.architectures import architectures
from support.tiny_families import random_model
from support.tiny_gguf import permuted, write_gguf
from support.tiny_llama import LLAMA3_ROPE, tokens

_YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
_GEMMA3_TYPES = ["sliding_attention"] * 3 + ["full_attention"]
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("llama, plain", {}, {}),
    "llama, tied": ("llama, tied", {}, {}),
    "llama, biased": ("llama, biased", {}, {}),
    "llama, llama3 rope": ("llama, llama3 rope", {"head_dim": 64}, {}),
    "llama, published rope": (
        "llama, plain",
        {"head_dim": 64, "rope_parameters": LLAMA3_ROPE | {"original_max_position_embeddings": 8192}},
        {},
    ),
    "llama, linear rope": (
        "llama, plain",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
        {},
    ),
    "llama, yarn": ("llama, plain", {"rope_parameters": _YARN}, {}),
    "qwen2": ("qwen2", {}, {}),
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True}, {}),
    "qwen3": ("qwen3", {}, {}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 1, 1, 0], "tie_word_embeddings": True}, {}),
    "olmo2": ("olmo2", {}, {}),
    "phi3": ("phi3", {}, {"phi3.attention.sliding_window": 0}),
    "phi3, partly rotated, window": ("phi3, partly rotated, window", {}, {}),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 16}, {}),
    "gemma3": (
        "gemma3_text",
        {"query_pre_attn_scalar": 16, "layer_types": _GEMMA3_TYPES},
        {"gemma3.attention.sliding_window_pattern": 4},
    ),
    "gemma3, scaled": (
        "gemma3_text",
        {
            "query_pre_attn_scalar": 16,
            "layer_types": _GEMMA3_TYPES,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
        {"gemma3.attention.sliding_window_pattern": [True, True, True, False]},
    ),
}
KINDS = (Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0)
WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 8, "head_dim": 32}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def same_logits(file: Path, model: Any) -> None:
    """The converted checkpoint is one that we open, and transformers computes the same with it."""
    source = open_checkpoint(str(file))
    loaded, info = AutoModelForCausalLM.from_pretrained(
        source.path, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values()), info
    ids = tokens(2, 40)
    with torch.no_grad():
        found, expected = loaded.eval()(ids).logits, model(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", MODELS)
def test_logits_of_every_architecture(tmp_path: Path, case: str) -> None:
    family, changes, metadata = MODELS[case]
    model = random_model(family, **changes)
    same_logits(write_gguf(tmp_path / "tiny.gguf", model, metadata=metadata), model)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("case", ["llama", "gemma3"])
def test_logits_of_every_type(tmp_path: Path, case: str, kind: Kind) -> None:
    family, changes, metadata = MODELS[case]
    model = random_model(family, **changes)
    same_logits(write_gguf(tmp_path / "tiny.gguf", model, kind, metadata=metadata), model)
    stored = {Kind.F16: "float16", Kind.BF16: "bfloat16"}.get(kind, "float32")
    assert str(open_checkpoint(str(tmp_path / "tiny.gguf")).dtype) == f"torch.{stored}"


@pytest.mark.parametrize("family", ["llama, plain", "qwen2"])
def test_logits_of_q4_k(tmp_path: Path, family: str) -> None:
    model = random_model(family, **WIDE)
    same_logits(write_gguf(tmp_path / "tiny.gguf", model, Kind.Q4_K), model)


def test_every_architecture_is_a_family_and_is_tested() -> None:
    assert {architectures.get(name).model_type for name in architectures.known()} <= {*families.known()}
    assert {case.partition(",")[0] for case in MODELS} == {*architectures.known()}


def test_config_of_llama(tmp_path: Path) -> None:
    model = random_model("llama, llama3 rope", head_dim=64)
    special = {f"tokenizer.ggml.{key}_token_id": value for key, value in (("bos", 1), ("eos", 2), ("eot", 5))}
    file = write_gguf(
        tmp_path / "a model.gguf", model, metadata=special | {"tokenizer.ggml.padding_token_id": 3}
    )
    directory = checkpoint_directory(file)
    assert directory.name == "a model"
    config = json.loads((directory / "config.json").read_text())
    assert config["rope_parameters"] == LLAMA3_ROPE
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, 3)
    generation = json.loads((directory / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 1, "eos_token_id": [2, 5], "pad_token_id": 3}


def test_a_file_is_converted_once_and_anew_when_it_changes(tmp_path: Path, cache: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", random_model("qwen2"))
    directory = checkpoint_directory(file)
    made = (directory / "config.json").stat().st_mtime_ns
    (tmp_path / "elsewhere").mkdir()
    moved = file.rename(tmp_path / "elsewhere" / "tiny.gguf")
    assert checkpoint_directory(moved) == directory
    assert (directory / "config.json").stat().st_mtime_ns == made
    write_gguf(moved, random_model("qwen2"), metadata={"qwen2.context_length": 256})
    assert checkpoint_directory(moved) != directory
    assert {entry.name for entry in (cache / "gguf").rglob("*") if entry.name.startswith(".")} == set()


def test_a_link_has_its_own_name(tmp_path: Path) -> None:
    """Hugging Face's cache links a file's name to one that is called by its hash."""
    write_gguf(tmp_path / "5e1f", random_model("qwen2"))
    (tmp_path / "small.gguf").symlink_to(tmp_path / "5e1f")
    assert open_checkpoint(str(tmp_path / "small.gguf")).name == "small"


def test_metadata_that_was_edited_in_a_long_file_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lathe.compressor.model.gguf.convert.file_digest", lambda _file: "the same")
    file = write_gguf(tmp_path / "tiny.gguf", random_model("qwen2"))
    directory = checkpoint_directory(file)
    write_gguf(file, random_model("qwen2"), metadata={"qwen2.context_length": 513})
    assert checkpoint_directory(file) != directory


def test_a_checkpoint_is_opened_again_by_its_workers(tmp_path: Path) -> None:
    source = open_checkpoint(str(write_gguf(tmp_path / "tiny.gguf", random_model("qwen2"))))
    again = opened(str(source.path))
    assert (again.name, again.path) == (source.name, source.path) == ("tiny", source.path)


def test_a_large_model_is_written_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lathe.compressor.model.safetensors_writer.write_shards.__defaults__", (40_000,))
    model = random_model("llama, plain")
    file = write_gguf(tmp_path / "tiny.gguf", model)
    same_logits(file, model)
    assert len([*checkpoint_directory(file).glob("model-*.safetensors")]) > 1


def test_rows_are_permuted_as_llama_cpp_does() -> None:
    rows = torch.arange(8).numpy()
    assert permuted(rows, 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
