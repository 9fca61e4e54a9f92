"""SliceGPT against transformers layers with rotated, sliced weights, and its PCA against numpy's SVD."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from other_settings import KINDS, is_deterministic
from tiny_setting import make_setting
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.quality.baselines.slicegpt import largest_width, parameters, pca, principal_axes, slicegpt
from benchmarks.quality.setting import Setting


class Sliced:
    """The paper's sliced model: norms folded, weights cut in the rotated basis, rotations between blocks."""

    def __init__(self, setting: Setting, axes: list[torch.Tensor]) -> None:
        whole, self.setting, self.axes = torch.eye(setting.shape.hidden_size), setting, axes
        self.model = LlamaForCausalLM(LlamaConfig(**setting.source.config)).eval()
        every = [*axes, whole]
        self.rotations = [a.T @ b for a, b in pairwise(every)]
        for i, layer in enumerate(self.model.model.layers):
            self._fill(layer, setting.layers[i], *every[2 * i : 2 * i + 3])

    def _fill(self, layer, dense, before, between, after) -> None:
        for name, axes in (("input_layernorm", before), ("post_attention_layernorm", between)):
            norm, ratio = layer.get_submodule(name), axes.shape[0] / axes.shape[1]
            norm.weight = torch.nn.Parameter(torch.full((axes.shape[1],), ratio**0.5))
            norm.variance_epsilon *= ratio  # with the weight: the mean of squares is taken over D
        for module, norm, q in (
            *((f"self_attn.{n}_proj", "input_layernorm", before) for n in "qkv"),
            *((f"mlp.{n}_proj", "post_attention_layernorm", between) for n in ("gate", "up")),
        ):
            self._set(layer, module, dense[f"{module}.weight"] * dense[f"{norm}.weight"] @ q, dense, None)
        self._set(layer, "self_attn.o_proj", between.T @ dense["self_attn.o_proj.weight"], dense, between)
        self._set(layer, "mlp.down_proj", after.T @ dense["mlp.down_proj.weight"], dense, after)

    def _set(self, layer, name, weight, dense, q) -> None:
        module = layer.get_submodule(name)
        module.weight = torch.nn.Parameter(weight)
        if f"{name}.bias" in dense:
            bias = dense[f"{name}.bias"]
            module.bias = torch.nn.Parameter(bias if q is None else q.T @ bias)

    def logprobs(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.setting.embed(tokens) @ self.axes[0]
        rope = self.model.model.rotary_emb(x, torch.arange(tokens.shape[1])[None])
        for layer, turn, again in zip(
            self.model.model.layers, self.rotations[::2], self.rotations[1::2], strict=True
        ):
            read = layer.self_attn(layer.input_layernorm(x), position_embeddings=rope, attention_mask=None)[0]
            x = x @ turn + read
            x = x @ again + layer.mlp(layer.post_attention_layernorm(x))
        return self.setting.head.logprobs(x)

    @property
    def parameters(self) -> int:
        kept = (p.numel() for n, p in self.model.model.layers.named_parameters() if "norm" not in n)
        return sum(kept) + sum(rotation.numel() for rotation in self.rotations)


def check_against_narrow_layers(setting: Setting, keep: float) -> None:
    width = largest_width(setting, keep)
    found = slicegpt(setting, keep)
    reference = Sliced(setting, principal_axes(setting, width))
    with torch.inference_mode():
        expected = reference.logprobs(setting.heldout)
    torch.testing.assert_close(found.logprobs(setting.heldout), expected, rtol=1e-3, atol=1e-3)
    assert found.parameters == reference.parameters
    assert found.facts["width"] == width < setting.shape.hidden_size


@pytest.mark.parametrize("keep", [0.9, 0.5])
def test_projecting_computes_what_sliced_weights_compute(setting: Setting, keep: float) -> None:
    check_against_narrow_layers(setting, keep)


@pytest.mark.parametrize("kind", KINDS)
def test_other_llamas(kind: str, tmp_path: Path) -> None:
    check_against_narrow_layers(make_setting(tmp_path, **KINDS[kind]), 0.7)


def test_axes_are_singular_vectors_of_normed_vectors(setting: Setting) -> None:
    x = setting.embed(setting.fit)
    normed = (x / x.square().mean(-1, keepdim=True).sqrt()).flatten(0, 1).double().numpy()
    found = pca(list(x.split(3))).double().numpy()
    assert found.T @ found == pytest.approx(np.eye(len(found)), abs=1e-5)
    right = np.linalg.svd(normed, full_matrices=False)[2]
    for width in (3, 20):
        expected = right[:width].T @ right[:width]
        assert found[:, :width] @ found[:, :width].T == pytest.approx(expected, abs=1e-4)


def test_each_pca_reads_the_sliced_stream(setting: Setting) -> None:
    axes = principal_axes(setting, 24)
    x = setting.embed(setting.fit) @ axes[0] @ axes[0].T
    between = pca([setting.runner.attention(setting.layers[0], x)])[:, :24]
    torch.testing.assert_close(axes[1] @ axes[1].T, between @ between.T, rtol=1e-3, atol=1e-3)
    dense = pca([setting.runner.attention(setting.layers[0], setting.embed(setting.fit))])[:, :24]
    assert not torch.allclose(axes[1] @ axes[1].T, dense @ dense.T, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("keep", [0.95, 0.8, 0.5, 0.2])
def test_the_largest_width_that_fits(setting: Setting, keep: float) -> None:
    found, budget = slicegpt(setting, keep), keep * setting.dense_parameters
    assert found.parameters <= budget < parameters(setting, found.facts["width"] + 1)


def test_full_width_is_dense(setting: Setting) -> None:
    found = slicegpt(setting, 1.0)
    assert found.facts["width"] == setting.shape.hidden_size
    dense = setting.subnet(list(setting.layers)).logprobs(setting.heldout)
    torch.testing.assert_close(found.logprobs(setting.heldout), dense)


def test_nearly_full_width_is_nearly_dense(setting: Setting) -> None:
    """One axis less costs little, though every block is rotated: nothing but that axis is lost."""
    dense = setting.subnet(list(setting.layers)).logprobs(setting.heldout)
    losses = []
    for width in (63, 48, 16):
        other = Sliced(setting, principal_axes(setting, width))
        with torch.inference_mode():
            losses.append(float((dense.exp() * (dense - other.logprobs(setting.heldout))).sum(-1).mean()))
    assert losses[0] < losses[1] < losses[2]
    assert losses[0] < 0.1 * losses[2]


def test_the_same_again(setting: Setting) -> None:
    assert is_deterministic(slicegpt, setting, 0.6)
