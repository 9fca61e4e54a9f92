"""Single blocks, put together, are the model; what a projection reads is what transformers gives it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lathe.compressor.model.block_runner import BlockRunner
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.pruning import ImportanceRanking, prune_attention, prune_ffn, select
from support.tiny_families import family_checkpoint
from support.tiny_llama import PLANS, VARIANTS, checkpoint, pruned, reference, tokens
from support.tiny_problem import Lab, make_lab

SHAPES: dict[str, dict[str, Any]] = VARIANTS | {"mha": {"num_key_value_heads": 8}}


def run(source: Checkpoint, layers: list[Any], ids: torch.Tensor) -> torch.Tensor:
    """Logits of a chain of blocks."""
    runner = BlockRunner(source)
    hidden = source.tensor("model.embed_tokens.weight")[ids]
    for weights in layers:
        hidden = runner.ffn(weights, runner.attention(weights, hidden))
    output = "model.embed_tokens.weight" if source.shape.tied_embeddings else "lm_head.weight"
    return runner.final_norm(source.module("model.norm"), hidden) @ source.tensor(output).T


@torch.no_grad()
@pytest.mark.parametrize("variant", SHAPES)
def test_a_chain_of_blocks_is_the_model(tmp_path: Path, variant: str) -> None:
    source, ids = checkpoint(tmp_path, **SHAPES[variant]), tokens(3, 20)
    logits = run(source, [source.layer(i) for i in range(4)], ids)
    expected = reference(source, PLANS["dense"])(ids).logits
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", PLANS)
def test_cut_blocks_are_the_dense_model_with_the_omitted_parts_zeroed(tmp_path: Path, name: str) -> None:
    source, ids, plan = checkpoint(tmp_path, **VARIANTS["biased"]), tokens(3, 20), PLANS[name]
    order = ImportanceRanking(torch.arange(4), torch.arange(8).view(4, 2), torch.arange(96))
    layers = []
    for index, shape in enumerate(plan):
        dense, kept = source.layer(index), select(order, shape)
        assert kept.shape == shape
        layers.append(prune_attention(source.shape, dense, kept) | prune_ffn(dense, kept))
    expected = reference(source, plan)(ids).logits
    torch.testing.assert_close(run(source, layers, ids), expected, atol=2e-5, rtol=0)
    exported = pruned(source, plan)
    for index, layer in enumerate(layers):
        for part, value in layer.items():
            assert torch.equal(value, exported.tensor(f"model.layers.{index}.{part}"))


def test_keeping_everything_changes_nothing(lab: Lab, tmp_path: Path) -> None:
    for order, dense in zip(lab.problem(tmp_path).rankings, lab.layers, strict=True):
        kept = select(order, lab.source.shape.layer)
        whole = prune_attention(lab.source.shape, dense, kept)
        whole |= prune_ffn(dense, kept)
        assert whole.keys() == dense.keys()
        assert all(torch.equal(whole[name], dense[name]) for name in dense)


def test_gradients_flow_through_a_runner_that_has_run_in_inference_mode(tmp_path: Path) -> None:
    source, ids = checkpoint(tmp_path), tokens(2, 20)
    runner, hidden = BlockRunner(source), source.tensor("model.embed_tokens.weight")[ids]
    with torch.inference_mode():
        runner.attention(source.layer(0), hidden)
    layers = [{n: t.requires_grad_() for n, t in source.layer(i).items()} for i in range(4)]
    for weights in layers:
        hidden = runner.ffn(weights, runner.attention(weights, hidden))
    hidden.square().sum().backward()
    model = reference(source, PLANS["dense"]).model
    model.norm = nn.Identity()
    model(ids).last_hidden_state.square().sum().backward()
    for weights, layer in zip(layers, model.layers, strict=True):
        for name, parameter in layer.named_parameters():
            torch.testing.assert_close(weights[name].grad, parameter.grad, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_where_layers_differ_the_runner_of_one_has_to_be_asked_for(tmp_path: Path) -> None:
    source = family_checkpoint(tmp_path, "smollm3")
    runner, hidden = BlockRunner(source), source.tensor("model.embed_tokens.weight")[tokens(2, 20)]
    with pytest.raises(ValueError, match="ask `at`"):
        runner.attention(source.layer(0), hidden)
    rotated, plain = (runner.at(i).attention(source.layer(0), hidden) for i in (0, 1))
    assert not torch.allclose(rotated, plain)


@pytest.mark.parametrize("variant", ["plain", "biased"])
def test_statistics_are_second_moments_of_what_the_projections_read(tmp_path: Path, variant: str) -> None:
    lab = make_lab(tmp_path, **VARIANTS[variant])
    model, seen = reference(lab.source, PLANS["dense"]), {}

    def watch(name: str, module: nn.Module) -> None:
        module.register_forward_pre_hook(lambda _, args: seen.__setitem__(name, args[0].double().numpy()))

    decoder = model.model.layers[2]
    watch("attention", decoder.self_attn.o_proj)
    watch("ffn", decoder.mlp.down_proj)
    watch("attention_input", decoder.self_attn.q_proj)
    watch("ffn_input", decoder.mlp.up_proj)
    with torch.no_grad():
        model(lab.windows)
    found, heldout = lab.statistics[2].tensors(), lab.heldout.numpy()

    def moment(name: str, windows: Any) -> torch.Tensor:
        x = seen[name][windows].reshape(-1, seen[name].shape[-1])
        return torch.from_numpy(x.T @ x / len(x))

    for name in ("attention", "ffn"):
        torch.testing.assert_close(found[name], moment(name, ~heldout), atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(found[f"{name}_heldout"], moment(name, heldout), atol=1e-6, rtol=1e-4)
    for name in ("attention_input", "ffn_input"):
        torch.testing.assert_close(found[name], moment(name, heldout | ~heldout), atol=1e-6, rtol=1e-4)
