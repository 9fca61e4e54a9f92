"""What makes a family supported: the same tests for all, against transformers' own models of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, DynamicCache

from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.model.block_runner import BlockRunner
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.model.embedding import embed, embedding
from lathe.compressor.model.families import families
from lathe.compressor.model.lm_head import LMHead
from lathe.compressor.model.names import layer_prefix
from support.family_checks import ONNX, checkpoint_difference, logits, onnx_difference, written
from support.shown import Shows
from support.tiny_families import (
    CASES,
    SOME_PLANS,
    family_checkpoint,
    first_of_each,
    planned,
    shapes_of,
    zeroed,
)
from support.tiny_llama import tokens

TORCH = 1e-5
LOAD = """
import sys
sys.modules["lathe"] = None
import torch
from transformers import AutoConfig, AutoModelForCausalLM
for case in range(int(sys.argv[2])):
    path = f"{sys.argv[1]}/{case}"
    model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True).eval()
    with torch.no_grad():
        found, expected = model(torch.load(f"{sys.argv[1]}/ids.pt")).logits, torch.load(path + ".pt")
    assert (found - expected).abs().max() <= float(sys.argv[3]), case
"""


@pytest.fixture(scope="module", params=CASES)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return family_checkpoint(tmp_path_factory.mktemp("dense"), request.param)


@pytest.fixture
def case(request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["source"])


@pytest.fixture(scope="module", params=SOME_PLANS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_family_is_tested() -> None:
    assert {settings["model_type"] for settings in CASES.values()} == set(families.known())


def test_all_load_without_lathe(tmp_path: Path) -> None:
    ids = tokens(2, 20)
    torch.save(ids, tmp_path / "ids.pt")
    for number, case in enumerate(CASES):
        source = family_checkpoint(tmp_path / "dense" / str(number), case)
        model = written(tmp_path / str(number), source, "mixed")
        torch.save(logits(model, ids), tmp_path / f"{number}.pt")
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", LOAD, str(tmp_path), str(len(CASES)), str(TORCH)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


class TestFamily:
    def test_parameters_are_those_of_transformers(self, source: Checkpoint) -> None:
        model, shape = zeroed(source, planned(source, "dense")), source.shape
        unused = source.family.position_offset * shape.hidden_size
        assert shape.parameters(shape.dense_plan) + unused == sum(p.numel() for p in model.parameters())

    def test_keeping_everything_is_exact(
        self, source: Checkpoint, case: str, tmp_path: Path, shows: Shows
    ) -> None:
        near = shows("checkpoint", case)
        model, ids = written(tmp_path, source, "dense"), tokens(2, 60)
        difference = (logits(model, ids) - logits(zeroed(source, planned(source, "dense")), ids)).abs().max()
        assert near(float(difference)) <= TORCH
        stored = {name: value for name, value in model.state_dict().items() if name in set(source.names())}
        assert all(torch.equal(value, source.tensor(name)) for name, value in stored.items())

    def test_a_subnet_is_the_zeroed_model_and_loads(
        self, source: Checkpoint, case: str, name: str, tmp_path: Path, shows: Shows
    ) -> None:
        assert shows("checkpoint", case)(checkpoint_difference(tmp_path, source, name)) <= 2 * TORCH
        with safe_open(tmp_path / "model.safetensors", framework="pt") as handle:
            shapes = {key: tuple(handle.get_slice(key).get_shape()) for key in handle.keys()}  # noqa: SIM118
        assert shapes == shapes_of(source, planned(source, name))

    def test_cached_is_uncached(self, source: Checkpoint, name: str, tmp_path: Path) -> None:
        model, ids = written(tmp_path, source, name), tokens(2, 9)
        answers = [
            model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0, use_cache=cached)
            for cached in (True, False)
        ]
        assert torch.equal(*answers)

    @torch.no_grad()
    def test_a_left_padded_batch_is_its_rows(self, source: Checkpoint, tmp_path: Path) -> None:
        model, ids = written(tmp_path, source, "mixed"), tokens(2, 12)
        mask = torch.ones_like(ids)
        mask[0, :5] = 0
        options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        both = model.generate(ids, attention_mask=mask, **options)
        for row in range(2):
            alone = model.generate(ids[row : row + 1, mask[row].bool()], **options)
            assert torch.equal(alone[0, -6:], both[row, -6:])

    def test_our_forward_is_the_model(self, source: Checkpoint, name: str) -> None:
        runner, job, ids = BlockRunner(source), first_of_each(source, planned(source, name)), tokens(2, 60)
        hidden = embedding(source, source.tensor("model.embed_tokens.weight"))[ids]
        for index in range(source.shape.num_layers):
            prefix = layer_prefix(index)
            names = [key for key in shapes_of(source, job.plan) if key.startswith(prefix)]
            weights = {key.removeprefix(prefix): job.tensor(key) for key in names}
            hidden = runner.at(index).layer(weights, hidden)
        head = "model.embed_tokens.weight" if source.shape.tied_embeddings else "lm_head.weight"
        norm, cap = source.module("model.norm"), source.config.get("final_logit_softcapping")
        found = LMHead(runner, norm, source.tensor(head), cap).logits(hidden)
        expected = logits(zeroed(source, job.plan), ids)
        assert (found - expected).abs().max() <= TORCH * max(1.0, float(expected.abs().max()))

    @torch.no_grad()
    def test_tokens_that_go_on_from_a_past_are_the_rest_of_the_window(self, source: Checkpoint) -> None:
        model, ids = LayeredModel.open(source, ArrayStore()), tokens(2, 40)
        caches, rows = [DynamicCache() for _ in model.layers], []
        for start, end in [(0, 20), *((at, at + 1) for at in range(20, 40))]:
            hidden = embed(model.embedding, ids[:, start:end], start)
            for index, layer in enumerate(model.layers):
                hidden = model.runner.at(index).layer(layer, hidden, (caches[index], start))
            rows.append(model.head.logits(hidden))
        torch.testing.assert_close(torch.cat(rows, 1), model(ids).logits, atol=5 * TORCH, rtol=0)

    def test_onnx_is_torch_for_two_rows_of_different_lengths(
        self, source: Checkpoint, case: str, name: str, tmp_path: Path, shows: Shows
    ) -> None:
        assert shows("onnx", case)(onnx_difference(tmp_path, source, name)) <= ONNX

    def test_a_config_that_leaves_out_the_usual_reads_as_transformers_does(
        self, source: Checkpoint, tmp_path: Path
    ) -> None:
        """Config files of older models have few settings: the rest is what transformers fills in."""
        whole = json.loads((source.path / "config.json").read_text())
        few = (
            "model_type",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "vocab_size",
            "intermediate_size",
            "ffn_dim",
        )
        raw = {key: whole[key] for key in few if key in whole}
        raw |= {"num_attention_heads": 32, "sliding_window": None}
        (tmp_path / "config.json").write_text(json.dumps(raw))
        theirs, ours = AutoConfig.from_pretrained(tmp_path), source.family.read(raw)
        shape = source.family.shape(ours)
        usual = shape.hidden_size // shape.layer.query_heads
        assert shape.head_dim == (getattr(theirs, "head_dim", None) or usual)
        assert shape.tied_embeddings == theirs.tie_word_embeddings
        assert ours.get("max_position_embeddings", 2048) == theirs.max_position_embeddings
        assert shape.layer.kv_heads == getattr(theirs, "num_key_value_heads", theirs.num_attention_heads)
        epsilon = getattr(theirs, "rms_norm_eps", getattr(theirs, "layer_norm_eps", 1e-5))
        assert ours.get("rms_norm_eps", 1e-6) == epsilon
        if source.shape.learned_positions == 0:
            theta = {"rope_theta": ours.get("rope_theta", 1e4)}
            rope = {**theta, **(ours.get("rope_parameters") or {})}
            others = ours.get("window_rope_parameters") or rope
            ropes = theirs.rope_parameters
            kinds = (ropes.get("full_attention", ropes), ropes.get("sliding_attention", ropes))
            for mine, usual in zip((rope, others), kinds, strict=True):
                assert mine["rope_theta"] == usual["rope_theta"]
                assert mine.get("partial_rotary_factor", 1) == usual.get("partial_rotary_factor", 1)

    def test_the_dtype_is_the_tensors_own_where_the_config_has_none(self, source: Checkpoint) -> None:
        config = {key: value for key, value in source.config.items() if "dtype" not in key}
        assert replace(source, config=config).dtype == torch.float32

    def test_windows_are_those_of_transformers(self, source: Checkpoint, tmp_path: Path) -> None:
        """Where config files have a window, and do not say by name which layers."""
        if source.family.uses_sliding_window is None:
            return
        raw = json.loads((source.path / "config.json").read_text()) | {"num_hidden_layers": 13}
        raw |= {"layer_types": None, "sliding_window": 16}
        (tmp_path / "config.json").write_text(json.dumps(raw))
        theirs = AutoConfig.from_pretrained(tmp_path)
        types = getattr(theirs, "layer_types", None) or ["sliding_attention"] * 13
        if not getattr(theirs, "use_sliding_window", True):
            types = ["full_attention"] * 13
        expected = [16 if kind == "sliding_attention" else 0 for kind in types]
        assert source.family.read(raw).get("windows", [0] * 13) == expected


@pytest.mark.parametrize(("caps", "kernel"), [(None, "sdpa"), (3.0, "eager")])
def test_a_gemma_without_caps_takes_pytorchs_attention(
    tmp_path: Path, caps: float | None, kernel: str
) -> None:
    source = family_checkpoint(tmp_path / "dense", "gemma2", attn_logit_softcapping=caps)
    model = written(tmp_path / "out", source, "mixed")
    assert model.config._attn_implementation == kernel
    ids, expected = tokens(2, 40), zeroed(source, planned(source, "mixed"))
    expected.set_attn_implementation("eager")
    torch.testing.assert_close(logits(model, ids), logits(expected, ids), atol=2e-5, rtol=0)
