"""The uneven model against the stock dense one with the omitted parts zeroed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    ContinuousBatchingConfig,
    DynamicCache,
    GenerationConfig,
)

from lathe.artefact.modeling import LatheLlamaConfig, LatheLlamaForCausalLM, register
from lathe.artefact.modeling.modeling_lathe_llama import CACHE, LatheLlamaModel
from lathe.artefact.plan import Plan
from lathe.compressor.export.checkpoint import uneven_config
from lathe.compressor.export.layout import pruned_tensors
from lathe.compressor.model.checkpoint import Checkpoint
from support.tiny_llama import (
    CONFIG,
    FFN,
    HEADS,
    KV_HEADS,
    LAYERS,
    PLANS,
    VARIANTS,
    VOCAB,
    checkpoint,
    plan,
    pruned,
    reference,
    tokens,
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    return {
        name: checkpoint(tmp_path_factory.mktemp("dense"), **changes) for name, changes in VARIANTS.items()
    }


def uneven(source: Checkpoint, subnet: Plan) -> LatheLlamaForCausalLM:
    model = LatheLlamaForCausalLM(LatheLlamaConfig(**uneven_config(source, subnet))).eval()
    tensor = pruned(source, subnet).tensor
    state = {name: tensor(name) for name, _ in pruned_tensors(source.shape, subnet)}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert missing == (["lm_head.weight"] if source.shape.tied_embeddings else [])
    return model


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor, **inputs: Any) -> torch.Tensor:
    return model(ids, **inputs).logits


def test_keep_all_is_exact(sources: dict[str, Checkpoint]) -> None:
    ids = tokens(2, 30)
    for source in sources.values():
        dense = reference(source, PLANS["dense"])
        assert torch.equal(logits(uneven(source, PLANS["dense"]), ids), logits(dense, ids))


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_unevenness_equals_the_zeroed_dense_model(
    sources: dict[str, Checkpoint], variant: str, name: str
) -> None:
    source, subnet, ids = sources[variant], PLANS[name], tokens(2, 30)
    expected = logits(reference(source, subnet), ids)
    torch.testing.assert_close(logits(uneven(source, subnet), ids), expected, atol=2e-5, rtol=0)


layers = st.tuples(st.integers(0, KV_HEADS), st.integers(1, HEADS // KV_HEADS), st.integers(0, FFN))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(layers, min_size=LAYERS, max_size=LAYERS))
def test_any_plan_has_its_shapes_and_logits(
    sources: dict[str, Checkpoint], drawn: list[tuple[int, int, int]]
) -> None:
    source, subnet = sources["plain"], plan(*((kv * per_group, kv, ffn) for kv, per_group, ffn in drawn))
    model, ids = uneven(source, subnet), tokens(1, 12)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes == dict(pruned_tensors(source.shape, subnet))
    torch.testing.assert_close(logits(model, ids), logits(reference(source, subnet), ids), atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", PLANS)
def test_cached_generation_equals_uncached(sources: dict[str, Checkpoint], name: str) -> None:
    model, ids = uneven(sources["plain"], PLANS[name]), tokens(2, 9)
    cached = model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
    uncached = model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0, use_cache=False)
    assert torch.equal(cached, uncached)


def test_cache_length_is_right_without_attention_in_the_first_layer(sources: dict[str, Checkpoint]) -> None:
    model, ids = uneven(sources["plain"], PLANS["no attention first"]), tokens(1, 9)
    for cache in (DynamicCache(), DynamicCache(config=model.config)):
        first = logits(model, ids[:, :5], **{CACHE: cache})
        assert cache.get_seq_length() == 5
        second = logits(model, ids[:, 5:], **{CACHE: cache})
        torch.testing.assert_close(torch.cat([first, second], 1), logits(model, ids), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["mixed", "no attention first", "groups"])
def test_left_padded_batch_equals_one_by_one(sources: dict[str, Checkpoint], name: str) -> None:
    model, ids = uneven(sources["plain"], PLANS[name]), tokens(3, 10)
    mask = torch.ones_like(ids)
    mask[0, :4] = mask[1, :7] = 0
    batch = model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=0)
    for row in range(3):
        alone = model.generate(
            ids[row : row + 1, mask[row].bool()], max_new_tokens=6, do_sample=False, pad_token_id=0
        )
        assert torch.equal(alone[0, -6:], batch[row, -6:])


def test_eager_equals_sdpa_when_switched_later(sources: dict[str, Checkpoint]) -> None:
    model, ids = uneven(sources["plain"], PLANS["mixed"]), tokens(2, 20)
    expected = logits(model, ids)
    assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    result = model(ids, output_attentions=True)
    torch.testing.assert_close(result.logits, expected, atol=1e-5, rtol=0)
    assert [weights.shape[1] for weights in result.attentions] == [3, 4]


def test_beam_search_and_training_run(sources: dict[str, Checkpoint]) -> None:
    model, ids = uneven(sources["plain"], PLANS["mixed"]), tokens(2, 6)
    beams = model.generate(ids, max_new_tokens=4, num_beams=2, do_sample=False, pad_token_id=0)
    assert beams.shape == (2, 10)
    model.train()
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable()
    model(ids, labels=ids, use_cache=False).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_c16_what_losses_and_older_callers_give_is_taken(sources: dict[str, Checkpoint]) -> None:
    model, ids = uneven(sources["plain"], PLANS["mixed"]), tokens(2, 6)
    shifted = torch.nn.functional.pad(ids, (0, 1), value=-100)[:, 1:].contiguous()
    expected = model(ids, labels=ids).loss
    assert torch.equal(model(ids, labels=ids, shift_labels=shifted).loss, expected)
    given = model(ids, labels=ids, cache_position=torch.arange(6)).loss
    assert torch.equal(given, expected)
    with pytest.raises(TypeError, match="takes no argument 'odd'"):
        model(ids, odd=1)


def test_continuous_batching_of_transformers_is_refused(sources: dict[str, Checkpoint]) -> None:
    model = uneven(sources["plain"], PLANS["mixed"])
    options = GenerationConfig(max_new_tokens=2, do_sample=False, pad_token_id=0)
    pages = ContinuousBatchingConfig(num_blocks=4, max_batch_tokens=16)
    (answer,) = model.generate_batch([[5, 6, 7]], options, pages).values()
    assert "call `generate`" in (answer.error or "")


def test_save_and_load_through_auto_classes(sources: dict[str, Checkpoint], tmp_path: Path) -> None:
    register()
    for source in sources.values():
        model, ids = uneven(source, PLANS["mixed"]), tokens(1, 10)
        model.save_pretrained(tmp_path)
        assert {"configuration_lathe_llama.py", "modeling_lathe_llama.py"} <= {
            file.name for file in tmp_path.iterdir()
        }
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert type(loaded) is LatheLlamaForCausalLM
        assert type(AutoModel.from_pretrained(tmp_path)) is LatheLlamaModel
        assert torch.equal(logits(loaded, ids), logits(model, ids))


def test_impossible_configs_are_refused() -> None:
    with pytest.raises(Exception, match="3 query heads are not a multiple"):
        LatheLlamaConfig(**CONFIG, per_layer_config={"1": {"num_attention_heads": 3}})
    with pytest.raises(Exception, match=r"unknown blocks \['atention'\]"):
        LatheLlamaConfig(**CONFIG, dropped_blocks={"atention": [0]})
    with pytest.raises(Exception, match="layers that do not exist"):
        LatheLlamaConfig(**CONFIG, dropped_blocks={"ffn": [4]})
    assert LatheLlamaConfig(**CONFIG).vocab_size == VOCAB
