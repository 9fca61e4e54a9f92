"""Our reading of a dense model against transformers', whole and layer by layer: equal, or refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lathe.artefact.errors import UserError
from lathe.compressor.agreement.check import check_agreement
from lathe.compressor.model.checkpoint import Checkpoint, open_checkpoint
from lathe.compressor.model.families import stored_name
from lathe.compressor.model.reference import load_dense
from support.tiny_families import CASES, FIRST, family_checkpoint

WHOLE = {"whole": True, "layer by layer": False}
SCALED = {"rope_type": "linear", "factor": 3.0}


@pytest.mark.parametrize("case", CASES)
def test_every_family_is_read_as_transformers_reads_it(tmp_path: Path, case: str) -> None:
    source = family_checkpoint(tmp_path, case)
    for whole in WHOLE.values():
        found = check_agreement(source, whole)
        assert f"{source.shape.num_layers} layers and logits" in found
        assert ("layer by layer" in found) != whole


def settings(path: Path, **changes: Any) -> Checkpoint:
    document = json.loads((path / "config.json").read_text()) | changes
    document = {n: value for n, value in document.items() if n not in changes or value is not None}
    (path / "config.json").write_text(json.dumps(document))
    return open_checkpoint(str(path))


EQUAL: dict[str, tuple[str, dict[str, Any]]] = {
    "theta beside rope_parameters": ("llama, plain", {"rope_theta": 77.0}),
    "theta alone": ("llama, plain", {"rope_theta": 77.0, "rope_parameters": None}),
    "scaling beside rope_parameters": ("llama, plain", {"rope_scaling": SCALED}),
    "scaling of GPT-NeoX beside rope_parameters": ("gpt_neox", {"rope_scaling": SCALED}),
    "yarn": (
        "llama, plain",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 32,
                "mscale": 0.7,
                "mscale_all_dim": 0.3,
            }
        },
    ),
    "longrope": (
        "llama, plain",
        {
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 32,
                "short_factor": [1.0 + i / 8 for i in range(8)],
                "long_factor": [2.0 + i for i in range(8)],
            }
        },
    ),
    "dynamic": (
        "qwen2",
        {
            "rope_parameters": {
                "rope_type": "dynamic",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ),
    "another activation": ("llama, plain", {"hidden_act": "gelu_new"}),
    "a large epsilon": ("qwen3", {"rms_norm_eps": 1e-2}),
    "a short window": ("mistral", {"sliding_window": 8}),
    "a window longer than the compared text": ("mistral", {"sliding_window": 200}),
    "a window that is not used": ("qwen2", {"sliding_window": 8, "use_sliding_window": False}),
    "a window in upper layers": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 100, "max_window_layers": 2, "layer_types": None},
    ),
    "a window in listed layers": (
        "qwen3",
        {
            "use_sliding_window": True,
            "sliding_window": 100,
            "layer_types": ["full_attention", "sliding_attention"] * 2,
        },
    ),
    "half of each head rotated": ("phi3", {"partial_rotary_factor": 0.5}),
    "no positions in every other layer": ("smollm3", {"no_rope_layers": None, "no_rope_layer_interval": 2}),
    "no window anywhere": ("olmo3", {"layer_types": ["full_attention"] * 4}),
    "other query scale": ("gemma2", {"query_pre_attn_scalar": 7}),
    "no caps": ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "an activation that is ignored": ("gemma2", {"hidden_act": "relu"}),
    "the windows' own theta": ("gemma3_text", {"rope_parameters": None, "rope_local_base_freq": 55.0}),
    "one expert a token": ("mixtral", {"num_experts_per_tok": 1}),
    "shares that are normalised": ("qwen3_moe", {"norm_topk_prob": True}),
    "a low limit": ("gpt_oss", {"swiglu_limit": 0.3, "rope_parameters": None}),
    "one block after the other": ("gpt_neox", {"use_parallel_residual": False}),
    "ReLU instead": ("opt", {"activation_function": "gelu"}),
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a window that only we think unused": (
        "mistral",
        {"sliding_window": 8, "use_sliding_window": False},
        r"layer 0 differs first.*setting of config\.json.*use_sliding_window",
    ),
    "caps that transformers' kernel ignores": (
        "gemma3_text",
        {"attn_logit_softcapping": 2.0},
        "layer 0 differs first.*attn_logit_softcapping",
    ),
    "scaling that goes before the ropes by kind of layer": (
        "gemma3_text",
        {"rope_scaling": SCALED},
        "layer 3 differs first.*rope_parameters",
    ),
    "the same of OLMo 3": ("olmo3", {"rope_scaling": SCALED}, "layer 3 differs first.*rope_parameters"),
    "positions of several dimensions": (
        "qwen2",
        {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}},
        "type `mrope`",
    ),
    "widths by layer": ("llama, plain", {"per_layer_config": {"1": {"num_attention_heads": 4}}}, "per_layer"),
    "a layer list that is too short": ("smollm3", {"no_rope_layers": [1]}, "cannot be run"),
    "positions that are no numbers": (
        "llama, plain",
        {"rope_parameters": {"rope_type": "default", "rope_theta": -1.0}},
        r"computes NaN or infinity, first in layer 0.*rope_parameters",
    ),
    "a multiplier": ("llama, plain", {"attention_multiplier": 3.0}, "attention_multiplier"),
    "a bias that is not there": ("llama, plain", {"mlp_bias": True}, "lacks the tensor.*bias"),
    "a head_dim that is not that of the weights": ("llama, plain", {"head_dim": 8}, "has shape"),
}


@pytest.mark.parametrize("kind", EQUAL)
def test_settings_are_read_as_transformers_reads_them(tmp_path: Path, kind: str) -> None:
    case, changes = EQUAL[kind]
    family_checkpoint(tmp_path, case)
    source = settings(tmp_path, **changes)
    for whole in WHOLE.values():
        check_agreement(source, whole)


@pytest.mark.parametrize("whole", WHOLE)
@pytest.mark.parametrize("kind", REFUSED)
def test_settings_that_are_read_otherwise_are_refused(tmp_path: Path, kind: str, whole: str) -> None:
    case, changes, words = REFUSED[kind]
    family_checkpoint(tmp_path, case)
    with pytest.raises(UserError, match=words):
        check_agreement(settings(tmp_path, **changes), WHOLE[whole])


PLACES = {
    "model.embed_tokens.weight": "the embedding",
    "model.layers.2.mlp.up_proj.weight": "layer 2",
    "model.norm.weight": "what is behind the layers",
    "lm_head.weight": "what is behind the layers",
}


@pytest.mark.parametrize("name", PLACES)
def test_a_tensor_that_only_we_read_is_named(tmp_path: Path, name: str) -> None:
    """As if two files of one folder disagreed."""
    source = family_checkpoint(tmp_path / "one", "llama, plain")
    (tmp_path / "other").mkdir()
    other = family_checkpoint(tmp_path / "other", "llama, plain")
    values = load_dense(other.path)
    with torch.no_grad():
        values.get_parameter(name).mul_(1.5)
    values.save_pretrained(other.path)
    mixed = replace(source, index=source.index | {name: open_checkpoint(str(other.path)).index[name]})
    with pytest.raises(UserError, match=f"{PLACES[name]} differs first") as caught:
        check_agreement(mixed, whole=True)
    assert name in str(caught.value) or PLACES[name] == "the embedding"


def logits(source: Checkpoint) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = load_dense(source.path)(torch.arange(12)[None]).logits
        return found


def stored(source: Checkpoint, changes: dict[str, torch.Tensor | None]) -> Checkpoint:
    """The checkpoint with tensors added, or taken away, and opened again."""
    from safetensors.torch import load_file, save_file

    file = source.path / "model.safetensors"
    tensors = load_file(file) | changes
    save_file({n: v for n, v in tensors.items() if v is not None}, file, {"format": "pt"})
    return open_checkpoint(str(source.path))


@pytest.mark.parametrize("family", FIRST)
def test_c1_a_stored_head_of_a_tied_model_counts_where_it_differs(tmp_path: Path, family: str) -> None:
    source = family_checkpoint(tmp_path, FIRST[family], tie_word_embeddings=True)
    head, table = (stored_name(source.family, f"{n}.weight") for n in ("lm_head", "model.embed_tokens"))
    before, weight = logits(source), source.tensor("model.embed_tokens.weight")
    same = stored(source, {head: weight.clone()})
    assert same.shape.tied_embeddings
    assert not same.notes
    found = stored(source, {head: weight.flip(0).contiguous()})
    assert not torch.equal(logits(found), before)
    assert not found.shape.tied_embeddings
    assert found.config["tie_word_embeddings"] is False
    assert head in found.notes[0]
    assert table in found.notes[0]
    for whole in WHOLE.values():
        check_agreement(found, whole)


@pytest.mark.parametrize("family", FIRST)
def test_c8_a_tied_model_may_have_its_head_alone(tmp_path: Path, family: str) -> None:
    source = family_checkpoint(tmp_path, FIRST[family], tie_word_embeddings=True)
    head, table = (stored_name(source.family, f"{n}.weight") for n in ("lm_head", "model.embed_tokens"))
    before = logits(source)
    found = stored(source, {head: source.tensor("model.embed_tokens.weight"), table: None})
    assert found.shape.tied_embeddings
    assert torch.equal(logits(found), before)
    check_agreement(found, whole=False)


@pytest.mark.parametrize("family", FIRST)
def test_c9_the_prefix_of_names_may_be_missing_or_doubled(tmp_path: Path, family: str) -> None:
    source = family_checkpoint(tmp_path, FIRST[family], tie_word_embeddings=True)
    before, prefix = logits(source), source.family.base_prefix + "."
    names = {name: entry.read() for name, entry in source.index.items()}
    assert all(name.startswith(prefix) for name in names)
    for change in (lambda n: n.removeprefix(prefix), lambda n: prefix + n):
        found = stored(source, dict.fromkeys(source.index) | {change(n): v for n, v in names.items()})
        assert torch.equal(logits(found), before)
        check_agreement(found, whole=False)
        source = stored(found, {change(n): None for n in names} | names)


@pytest.mark.parametrize(
    ("family", "old", "new"),
    [("gpt_neox", "embed_out.", "lm_head."), ("mixtral", ".block_sparse_moe.", ".mlp.")],
)
def test_c9_newer_names_of_a_family_are_read(tmp_path: Path, family: str, old: str, new: str) -> None:
    source = family_checkpoint(tmp_path, FIRST[family])
    before = logits(source)
    named = {name: entry.read() for name, entry in source.index.items() if old in name}
    assert named
    found = stored(source, dict.fromkeys(named) | {n.replace(old, new): v for n, v in named.items()})
    assert torch.equal(logits(found), before)
    check_agreement(found, whole=False)


def test_c9_a_tensor_under_two_names_is_refused(tmp_path: Path) -> None:
    source = family_checkpoint(tmp_path, "llama, plain")
    with pytest.raises(UserError, match="`model.norm.weight` twice, as `.*norm.weight` and"):
        stored(source, {"norm.weight": source.tensor("model.norm.weight")})


def test_c9_a_base_model_without_the_head_that_it_needs_is_refused(tmp_path: Path) -> None:
    source = family_checkpoint(tmp_path, "llama, plain")
    with pytest.raises(UserError, match="lacks the tensor `lm_head.weight`"):
        stored(source, {"lm_head.weight": None})


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "base_model.model."])
def test_c9_another_prefix_is_named(tmp_path: Path, prefix: str) -> None:
    source = family_checkpoint(tmp_path, "llama, plain")
    named = {prefix + name: entry.read() for name, entry in source.index.items()}
    with pytest.raises(UserError, match=f"It has `{prefix}model.embed_tokens.weight`: give its tensors"):
        stored(source, dict.fromkeys(source.index) | named)


@pytest.mark.parametrize("part", ["base_layer", "lora_A", "lora_B.default", "lora_embedding_A"])
def test_c10_weights_with_an_adapter_among_them_are_refused(tmp_path: Path, part: str) -> None:
    source = family_checkpoint(tmp_path, "llama, plain")
    name = f"model.layers.1.self_attn.q_proj.{part}.weight"
    with pytest.raises(UserError, match=f"adapter that is not merged .`{name}`.*merge_and_unload"):
        stored(source, {name: torch.zeros(4, 4)})
