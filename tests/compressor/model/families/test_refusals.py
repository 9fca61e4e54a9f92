"""Settings that would make another model are refused by name; those that change nothing pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lathe.artefact.errors import UserError
from lathe.compressor.export import exporters
from lathe.compressor.export.artefact import export_artefact
from lathe.compressor.export.checkpoint import export_checkpoint
from lathe.compressor.export.onnx.graph import DECODERS
from lathe.compressor.export.quantized import export_quantized
from lathe.compressor.export.vllm import ACTIVATIONS
from lathe.compressor.model.families import families, resolve
from support.tiny_families import family_checkpoint, first_of_each, planned
from support.tiny_llama import CONFIG, LLAMA3_ROPE

OPT = {"ffn_dim": 96}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"sliding_window": 64}, "sliding-window attention over 64 tokens"),
    ("olmo2", {"sliding_window": 64, "layer_types": ["sliding_attention"] * 4}, "sliding-window"),
    ("llama", {"partial_rotary_factor": 0.5}, "`partial_rotary_factor` to 0.5"),
    ("qwen2", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary"),
    ("qwen2", {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}, "type `mrope`"),
    ("llama", {"rope_parameters": {"full_attention": LLAMA3_ROPE}}, "several types"),
    ("llama", {"logit_scale": 0.5}, "`logit_scale` to 0.5"),
    ("llama", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    ("llama", {"embedding_multiplier": 12}, "embedding_multiplier"),
    ("llama", {"qkv_bias": True}, "qkv_bias"),
    ("llama", {"no_rope_layers": [1, 0, 1, 1]}, "no_rope_layers"),
    ("llama", {"norm_after": True}, "norm_after"),
    ("llama", {"windows": [16, 0, 16, 0]}, "windows"),
    ("llama", {"parallel_blocks": True}, "parallel_blocks"),
    ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ("gemma3_text", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "type `yarn`"),
    ("gpt_neox", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "type `dynamic`"),
    ("mistral", {"num_local_experts": 8}, "num_local_experts"),
    ("phi3", {"rope_scaling": {"type": "su"}}, "type `su`"),
    ("phi3", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "type `yarn`"),
    ("qwen3_moe", {"decoder_sparse_step": 2}, "layers without experts"),
    ("qwen3_moe", {"mlp_only_layers": [1]}, "layers without experts"),
    ("llama", {"experts": 8}, "experts"),
    ("opt", OPT | {"do_layer_norm_before": False}, "do_layer_norm_before"),
    ("opt", OPT | {"word_embed_proj_dim": 32}, "another width"),
    ("llama", {"rope_parameters": 7}, "impossible setting"),
]
TAKEN: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"partial_rotary_factor": 1.0, "logit_scale": 1.0, "sliding_window": None}),
    ("mistral", {"sliding_window": 128}),
    ("qwen2", {"use_sliding_window": False, "sliding_window": 64, "max_window_layers": 2}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 4}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 64, "layer_types": ["full_attention"] * 4}),
]


@pytest.mark.parametrize(("family", "settings", "message"), REFUSED, ids=str)
def test_another_model_is_refused(family: str, settings: dict[str, Any], message: str) -> None:
    config = CONFIG | settings | {"model_type": family}
    with pytest.raises(UserError, match=message):
        resolve(config).read(config)


@pytest.mark.parametrize(("family", "settings"), TAKEN, ids=str)
def test_what_changes_nothing_is_taken_and_left_out(family: str, settings: dict[str, Any]) -> None:
    config = CONFIG | settings | {"model_type": family}
    read = resolve(config).read(config)
    assert not {"sliding_window", "use_sliding_window", "max_window_layers", "layer_types"} & read.keys()


def test_a_llama_config_is_read_as_it_is() -> None:
    config = CONFIG | {"model_type": "llama", "anything": "else"}
    assert families.get("llama").read(config) == config


def test_an_exporter_refuses_a_family_that_it_has_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for types in (DECODERS, ACTIVATIONS):
        monkeypatch.delitem(types, "lathe_moe")
    source = family_checkpoint(tmp_path / "dense", "mixtral")
    for name in ("onnx-int8", "vllm"):
        with pytest.raises(UserError, match=r"`mixtral` cannot be exported to \S+ yet.*It takes: gemma2"):
            exporters.get(name).check(source)
    export_checkpoint(tmp_path / "out", first_of_each(source, planned(source, "mixed")))
    (tmp_path / "out" / "plan.json").write_text(json.dumps(planned(source, "mixed").to_json()))
    with pytest.raises(UserError, match="`lathe_moe`, which cannot be exported to vllm yet"):
        export_artefact(tmp_path / "out", tmp_path / "copy", "vllm")
    with pytest.raises(UserError, match="cannot be exported to vllm yet"):
        export_quantized(str(tmp_path / "out"), tmp_path / "copy", scheme="w8a8")


def test_experts_are_not_rounded_for_vllm(tmp_path: Path) -> None:
    source = family_checkpoint(tmp_path / "dense", "mixtral", head_dim=32)
    export_checkpoint(tmp_path / "out", first_of_each(source, planned(source, "mixed")))
    (tmp_path / "out" / "plan.json").write_text(json.dumps(planned(source, "mixed").to_json()))
    for model in (tmp_path / "dense", tmp_path / "out"):
        with pytest.raises(UserError, match="cannot be quantized for vLLM yet. Export it to vllm as it is"):
            export_quantized(str(model), tmp_path / "copy", scheme="w4a16")
    assert not (tmp_path / "copy").exists()
