"""GGUF files in float types: what llama.cpp computes of them, against transformers; metadata and tensors."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from lathe.artefact.errors import UserError
from lathe.artefact.gguf_suffix import MODEL_FILE
from lathe.artefact.plan import LayerShape
from lathe.compressor.export import exporters
from lathe.compressor.export.dense import write_artefact
from lathe.compressor.export.gguf import FloatTypes, Origin, build_gguf, export_gguf
from lathe.compressor.model.checkpoint import Checkpoint
from support.gguf_graph import GgufGraph
from support.hosted_models import HOSTED, hosted_checkpoint
from support.tiny_families import SOME_PLANS, family_checkpoint, first_of_each, planned, zeroed
from support.tiny_llama import PLANS, tokens

THOROUGHLY = ("llama, biased", "qwen3, tied")
PROMPT = tokens(24)
COMPUTED = [
    case for case in HOSTED if not case.startswith(("gemma", "smollm3", "olmo2")) and "yarn" not in case
]
CHECKED = [
    (case, name)
    for case in COMPUTED
    for name in (PLANS if case in THOROUGHLY else SOME_PLANS)
    if HOSTED[case][1] or name == "dense"
]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: Any) -> Callable[[str], Checkpoint]:
    return cache(lambda case: hosted_checkpoint(tmp_path_factory.mktemp("dense"), case))


def untokenized(directory: Path, case: str) -> Checkpoint:
    source = family_checkpoint(directory, case)
    (directory / "tokenizer.json").unlink()
    return source


@pytest.mark.parametrize(("case", "name"), CHECKED)
def test_every_kind_of_unevenness_computes_what_transformers_does(
    dense: Callable[[str], Checkpoint], case: str, name: str, tmp_path: Path
) -> None:
    source = dense(case)
    plan = planned(source, name)
    exporters.get("gguf").write(tmp_path, first_of_each(source, plan))
    graph = GgufGraph(tmp_path / MODEL_FILE)
    with torch.inference_mode():
        expected = zeroed(source, plan)(PROMPT[None]).logits[0]
    torch.testing.assert_close(graph.logits(PROMPT), expected, atol=2e-5, rtol=0)
    assert graph.architecture == HOSTED[case][name != "dense"]


def test_a_dense_file_has_scalars_and_the_tensors_of_the_checkpoint(tmp_path: Path) -> None:
    source = hosted_checkpoint(tmp_path / "dense", "qwen3")
    exporters.get("gguf").write(tmp_path, first_of_each(source, planned(source, "dense")))
    graph = GgufGraph(tmp_path / MODEL_FILE)
    assert graph.metadata == {
        "general.architecture": "qwen3",
        "general.name": "dense",
        "general.file_type": 0,
        "context_length": 512,
        "embedding_length": 64,
        "block_count": 4,
        "feed_forward_length": 96,
        "attention.head_count": 8,
        "attention.head_count_kv": 4,
        "attention.key_length": 16,
        "attention.value_length": 16,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": 16,
        "rope.freq_base": 1e4,
        "vocab_size": 120,
        "tokenizer.ggml.model": "no_vocab",
    }
    assert len(graph.tensors) == len([*source.names()])
    assert torch.equal(
        graph.tensors["blk.2.attn_k.weight"], source.tensor("model.layers.2.self_attn.k_proj.weight")
    )
    assert torch.equal(graph.tensors["output.weight"], source.tensor("lm_head.weight"))


def test_left_out_blocks_and_odd_widths_are_written_as_zeros(tmp_path: Path) -> None:
    source = untokenized(tmp_path / "dense", "llama, biased")
    plan = planned(source, "mixed")
    exporters.get("gguf").write(tmp_path, first_of_each(source, plan))
    graph = GgufGraph(tmp_path / MODEL_FILE)
    assert graph.metadata["attention.head_count"] == [1, 3, 0, 4]
    assert graph.metadata["attention.head_count_kv"] == [1, 3, 0, 2]
    assert graph.metadata["feed_forward_length"] == [64, 32, 32, 32]
    assert not graph.tensors["blk.0.attn_q.weight"].any()
    assert not graph.tensors["blk.3.ffn_up.weight"].any()
    assert not graph.tensors["blk.1.ffn_down.weight"][:, 17:].any()
    assert not any("blk.2.attn" in name for name in graph.tensors)


@pytest.mark.parametrize(("kind", "error"), [("F16", 5e-3), ("BF16", 4e-2)])
def test_matrices_have_the_float_type_and_vectors_are_float32(
    kind: str, error: float, tmp_path: Path
) -> None:
    source = untokenized(tmp_path / "dense", "llama, biased")
    plan = planned(source, "groups")
    export_gguf(tmp_path, first_of_each(source, plan), FloatTypes(kind))
    graph = GgufGraph(tmp_path / MODEL_FILE)
    kinds = {len(value.shape): {graph.types[name]} for name, value in graph.tensors.items()}
    assert kinds == {1: {"F32"}, 2: {kind}}
    with torch.inference_mode():
        expected = zeroed(source, plan)(PROMPT[None]).logits[0]
    torch.testing.assert_close(graph.logits(PROMPT), expected, atol=error, rtol=0)


def test_the_type_is_the_checkpoints_where_none_is_asked_for(tmp_path: Path) -> None:
    source = untokenized(tmp_path / "dense", "llama, plain")
    source = replace(source, config=source.config | {"dtype": "bfloat16"})
    exporters.get("gguf").write(tmp_path, first_of_each(source, planned(source, "ffn")))
    assert GgufGraph(tmp_path / MODEL_FILE).types["blk.1.ffn_up.weight"] == "BF16"


def test_values_beyond_float16_are_refused(tmp_path: Path) -> None:
    source = untokenized(tmp_path / "dense", "llama, plain")
    job = first_of_each(source, planned(source, "ffn"))
    with pytest.raises(UserError, match="beyond the range of float16.*bf16"):
        export_gguf(
            tmp_path, type(job)(source, job.plan, lambda name: job.tensor(name) * 1e9), FloatTypes("F16")
        )


def test_a_window_that_llama_cpp_lacks_limits_the_context(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = untokenized(tmp_path / "dense", "mistral, window")
    exporters.get("gguf").write(tmp_path, first_of_each(source, planned(source, "groups")))
    graph = GgufGraph(tmp_path / MODEL_FILE)
    assert graph.metadata["context_length"] == 16
    assert "no sliding windows: the file's context is 16 tokens, the window, not 512" in caplog.text
    with torch.inference_mode():
        expected = zeroed(source, planned(source, "groups"))(PROMPT[None, :16]).logits[0]
    torch.testing.assert_close(graph.logits(PROMPT[:16]), expected, atol=2e-5, rtol=0)


REFUSED = {
    "qwen3": "`openelm` has no heads apart from the embedding; `deci` has no norms of queries",
    "gemma3_text": "`openelm` has no GELU in FFNs, no norms after its blocks",
    "olmo2": "`deci` has no norms after its blocks",
    "opt": "`deci` has no FFNs without gates",
    "mixtral": "`deci` has no experts",
    "smollm3": "`deci` has no layers without positions",
    "phi3, partly rotated, window": "`deci` has no heads that are rotated in part",
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_family_without_a_host_is_refused_by_name_before_weights_are_read(
    case: str, tmp_path: Path
) -> None:
    source = untokenized(tmp_path / "dense", case)
    for file in (tmp_path / "dense").glob("*.safetensors"):
        file.write_bytes(b"")
    name = f"no architecture for uneven models of type `{source.family.model_type}`"
    with pytest.raises(UserError) as refused:
        exporters.get("gguf").check_uneven(source)
    assert name in str(refused.value)
    assert REFUSED[case] in str(refused.value)


def test_a_plan_of_another_depth_is_refused(tmp_path: Path) -> None:
    source = untokenized(tmp_path / "dense", "llama, plain")
    job = first_of_each(source, planned(source, "ffn"))
    short = type(job.plan)(job.plan.layers[:2])
    with pytest.raises(UserError, match="the plan has 2 layers; the model has 4"):
        export_gguf(tmp_path, type(job)(source, short, job.tensor), FloatTypes("F32"))


def test_an_even_plan_that_is_narrower_is_still_an_even_file(tmp_path: Path) -> None:
    source = untokenized(tmp_path / "dense", "qwen2")
    plan = type(planned(source, "dense"))((LayerShape(2, 1, 64),) * 4)
    write_artefact(tmp_path, first_of_each(source, plan), "gguf")
    graph = GgufGraph(tmp_path / MODEL_FILE)
    assert (graph.architecture, graph.metadata["attention.head_count"]) == ("llama", 2)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    source = untokenized(tmp_path / "dense", "llama, plain")
    job = first_of_each(source, planned(source, "ffn"))
    with pytest.raises(UserError, match=r"cannot write /dev/full \([\d,]+ bytes\): .*Free space there"):
        build_gguf(
            Path("/dev/full"),
            source.config,
            source.family,
            job.plan,
            job.tensor,
            FloatTypes("F32"),
            Origin("m"),
            durable=False,
        )
