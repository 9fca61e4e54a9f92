"""The comparison where layers differ, blocks end in norms and all heads share one KV head."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_setting import GEMMA, make_setting
from transformers import AutoModelForCausalLM

from benchmarks.quality.baselines.paper import Breeder
from benchmarks.quality.blocks import Stream, kinds
from benchmarks.quality.layer_step import step
from benchmarks.quality.masks import LayerMask
from benchmarks.quality.moments import layer_moments
from benchmarks.quality.setting import Setting, baselines
from lathe.artefact.errors import UserError


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return make_setting(tmp_path_factory.mktemp("gemma"), **GEMMA)


def test_the_dense_model_says_what_transformers_says(gemma: Setting) -> None:
    model = AutoModelForCausalLM.from_pretrained(gemma.source.path, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = model(input_ids=gemma.heldout).logits.log_softmax(-1)
    found = gemma.subnet(list(gemma.layers)).logprobs(gemma.heldout)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_walks_through_layers_and_blocks_are_the_forward_pass(gemma: Setting) -> None:
    hidden, stream = gemma.embed(gemma.fit), Stream(gemma)
    for index, weights in enumerate(gemma.layers):
        _, after = layer_moments(gemma, index, hidden)
        hidden = step(gemma, index, weights, hidden)
        torch.testing.assert_close(after, hidden)
        for kind in kinds(gemma):
            stream.gram(index, kind)
            stream.advance(index, kind, weights[f"{kind.output}.weight"])
    torch.testing.assert_close(hidden, gemma.hidden(gemma.layers, gemma.fit))
    torch.testing.assert_close(torch.cat(stream._parts), hidden)


@pytest.mark.parametrize("method", ["osscar", "tyr", "evopress-depth", "sleb", "shortgpt", "paper"])
def test_published_methods_keep_their_budget(gemma: Setting, method: str) -> None:
    found = baselines.get(method)(replace(gemma, evaluations=20), 0.7)
    assert 0.4 * gemma.dense_parameters < found.parameters <= 0.7 * gemma.dense_parameters
    assert torch.isfinite(found.logprobs(gemma.heldout)).all()


def test_masks_inside_heads_count_every_parameter_and_keep_the_norms(gemma: Setting) -> None:
    whole = LayerMask((torch.arange(8),), torch.arange(256))
    assert gemma.shape.num_layers * whole.parameters(gemma.shape) == gemma.dense_parameters
    narrow = LayerMask((torch.arange(6),), torch.arange(200))
    assert whole.parameters(gemma.shape) - narrow.parameters(gemma.shape) == 64 * (2 * 4 * 9 + 3 * 56)
    assert whole.weights(gemma.shape, gemma.layers[0]).keys() == gemma.layers[0].keys()
    assert Breeder(gemma, 0.7, lambda kept, *_: kept).uniform().parameters(gemma.shape) > 0


def test_slicegpt_says_why_it_cannot(gemma: Setting) -> None:
    with pytest.raises(UserError, match="slicegpt: what a block adds passes through a norm"):
        baselines.get("slicegpt")(gemma, 0.7)
