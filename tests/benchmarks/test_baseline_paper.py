"""The paper's faithful mode: masks against narrow layers, Alg. 1 against drawing sets, Table 1's ranges."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import linear, rms_norm, silu
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from benchmarks.quality.baselines import paper
from benchmarks.quality.masks import LayerMask, Masks
from benchmarks.quality.setting import Setting, Subnet, baselines
from lathe.compressor.model.block_runner import Weights
from support.tiny_llama import LLAMA3_ROPE, tokens
from support.tiny_problem import Lab, make_lab

N, K, H, F, D = 8, 4, 16, 96, 64


def a_mask(seed: int = 0) -> LayerMask:
    generator = torch.Generator().manual_seed(seed)

    def some(count: int, width: int) -> torch.Tensor:
        return torch.randperm(width, generator=generator)[:count].sort().values

    return LayerMask(tuple(some(count, H // 2) for count in (3, 8, 1, 5)), some(40, F))


def narrow(dense: Weights, mask: LayerMask) -> dict[str, torch.Tensor]:
    """Returns the pruned layer's tensors, head by head."""
    q_rows, kv_rows = [], []
    for group, pairs in enumerate(mask.pairs):
        dims = [*pairs.tolist(), *(pairs + H // 2).tolist()]
        kv_rows += [group * H + d for d in dims]
        q_rows += [(2 * group + j) * H + d for j in range(2) for d in dims]
    rows = {"q_proj": q_rows, "k_proj": kv_rows, "v_proj": kv_rows}
    rows |= dict.fromkeys(("gate_proj", "up_proj"), mask.channels.tolist())
    columns = {"o_proj": q_rows, "down_proj": mask.channels.tolist()}
    pruned = {}
    for name, value in dense.items():
        module = name.split(".")[-2]
        if module in rows:
            value = value[rows[module]]
        elif module in columns and name.endswith("weight"):
            value = value[:, columns[module]]
        pruned[name] = value
    return pruned


def run_narrow(lab: Lab, pruned: Weights, mask: LayerMask, x: torch.Tensor) -> torch.Tensor:
    """A Llama layer whose heads have widths of their own, written out; rotary values from transformers."""

    def project(name: str, y: torch.Tensor) -> torch.Tensor:
        return linear(y, pruned[f"{name}.weight"], pruned.get(f"{name}.bias"))

    normed = rms_norm(x, (D,), pruned["input_layernorm.weight"], 1e-5)
    q, k, v = (project(f"self_attn.{n}_proj", normed) for n in "qkv")
    rotary = LlamaRotaryEmbedding(AutoConfig.from_pretrained(lab.source.path))
    cos, sin = (part[0] for part in rotary(normed, torch.arange(x.shape[1])[None]))
    sizes = [2 * len(p) for p in mask.pairs]
    queries, keys, values = (
        q.split([s for s in sizes for _ in range(2)], -1),
        k.split(sizes, -1),
        v.split(sizes, -1),
    )
    causal = torch.full((x.shape[1],) * 2, float("-inf")).triu(1)
    heads = []
    for head, query in enumerate(queries):
        pairs = mask.pairs[head // 2]

        def turn(y: torch.Tensor, pairs: torch.Tensor = pairs) -> torch.Tensor:
            a, b = y.chunk(2, -1)
            c, s = cos[:, pairs], sin[:, pairs]
            return torch.cat([a * c - b * s, b * c + a * s], -1)

        scores = turn(query) @ turn(keys[head // 2]).transpose(1, 2) / H**0.5 + causal
        heads.append(scores.softmax(-1) @ values[head // 2])
    x = x + project("self_attn.o_proj", torch.cat(heads, -1))
    normed = rms_norm(x, (D,), pruned["post_attention_layernorm.weight"], 1e-5)
    return x + project(
        "mlp.down_proj", silu(project("mlp.gate_proj", normed)) * project("mlp.up_proj", normed)
    )


@pytest.mark.parametrize(
    "changes", [{}, {"attention_bias": True, "mlp_bias": True}, {"rope_parameters": LLAMA3_ROPE}]
)
@torch.inference_mode()
def test_a_masked_layer_computes_what_the_narrow_one_does(tmp_path: Path, changes: dict[str, object]) -> None:
    lab, mask = make_lab(tmp_path, **changes), a_mask()
    shape = lab.source.shape
    pruned = narrow(lab.layers[1], mask)
    assert sum(tensor.numel() for tensor in pruned.values()) == mask.parameters(shape)
    x = lab.embedding[tokens(2, 20)]
    masked = mask.weights(shape, lab.layers[1])
    found = lab.runner.ffn(masked, lab.runner.attention(masked, x))
    torch.testing.assert_close(found, run_narrow(lab, pruned, mask, x), rtol=1e-4, atol=1e-5)
    reconstructed = mask.reconstructed(shape, lab.layers[1], lab.statistics[1])
    assert not reconstructed["self_attn.o_proj.weight"][:, ~mask.dims(shape)[0]].any()
    found = lab.runner.ffn(reconstructed, lab.runner.attention(reconstructed, x))
    kept = narrow(lab.layers[1] | {"self_attn.o_proj.weight": reconstructed["self_attn.o_proj.weight"]}, mask)
    kept["mlp.down_proj.weight"] = reconstructed["mlp.down_proj.weight"]
    torch.testing.assert_close(found, run_narrow(lab, kept, mask, x), rtol=1e-4, atol=1e-5)


def test_a_layer_left_out_costs_nothing_and_a_full_one_what_dense_does(setting: Setting) -> None:
    full = LayerMask((torch.arange(H // 2),) * K, torch.arange(F))
    out = replace(full, alive=False)
    masks = Masks((full, out, full, full))
    assert masks.parameters(setting.shape) * 4 == 3 * setting.dense_parameters
    assert out.weights(setting.shape, setting.layers[0]) == {}
    again = full.reconstructed(setting.shape, setting.layers[0], setting.statistics[0])
    assert all(tensor.equal(setting.layers[0][name]) for name, tensor in again.items())
    assert masks.key != Masks((full,) * 4).key


def make(
    setting: Setting, keep: float, name: str = "paper", evaluations: int = 60, **changes: object
) -> Subnet:
    return baselines.get(name)(replace(setting, evaluations=evaluations, **changes), keep)


@pytest.mark.parametrize("name", ["paper", "paper-literal"])
@pytest.mark.parametrize("keep", [0.9, 0.65, 0.5, 0.3])
def test_the_budget_is_kept_and_nearly_used_within_table_1(setting: Setting, name: str, keep: float) -> None:
    found = make(setting, keep, name, evaluations=20)
    assert 0.98 * keep * setting.dense_parameters <= found.parameters <= keep * setting.dense_parameters
    layers = [
        (dims, ffn) for dims, ffn in zip(found.facts["head_dims"], found.facts["ffn"], strict=True) if dims
    ]
    assert len(layers) >= (4 if keep >= 0.8 else 3)
    lowest = np.interp(keep, paper.KEEPS, paper.LOWEST_ATTENTION)
    assert all(d / H >= lowest - 0.5 * 2 / H - 1e-9 and d % 2 == 0 for dims, _ in layers for d in dims)
    assert all(ffn / F >= np.interp(keep, paper.KEEPS, paper.LOWEST_FFN) - 0.5 / F for _, ffn in layers)
    assert torch.isfinite(found.logprobs(setting.heldout)).all()


def test_keeping_everything_is_the_dense_model(setting: Setting) -> None:
    found = make(setting, 1.0)
    dense = setting.head.logprobs(setting.hidden(setting.layers, setting.heldout))
    torch.testing.assert_close(found.logprobs(setting.heldout), dense)
    assert found.parameters == setting.dense_parameters


def test_the_initial_masks_are_the_scores_best(setting: Setting) -> None:
    """Eq. 1 to 3 written out with an explicit inverse, one sum per pair and channel."""
    start = paper.Breeder(setting, 0.7, lambda kept, *_: kept).uniform()

    def scores(layer: int, module: str, gram: torch.Tensor) -> np.ndarray:
        g = gram.numpy()
        inverse = np.linalg.inv(2 * (g + 0.01 * g.diagonal().mean() * np.eye(len(g))))
        return setting.layers[layer][f"{module}.weight"].double().numpy() ** 2 / inverse.diagonal()

    for layer, (mask, found) in enumerate(zip(start.layers, setting.statistics, strict=True)):
        q, k, v = (scores(layer, f"self_attn.{n}_proj", found.attention_input).sum(1) for n in "qkv")
        o = scores(layer, "self_attn.o_proj", found.attention).sum(0)
        for group, kept in enumerate(mask.pairs):
            by_pair = np.zeros(H // 2)
            for dim in range(H):
                for head in (2 * group, 2 * group + 1):
                    by_pair[dim % (H // 2)] += q[head * H + dim] + o[head * H + dim]
                by_pair[dim % (H // 2)] += k[group * H + dim] + v[group * H + dim]
            assert kept.tolist() == sorted(np.argsort(-by_pair)[: len(kept)].tolist())
        channels = sum(scores(layer, f"mlp.{n}_proj", found.ffn_input).sum(1) for n in ("gate", "up"))
        channels = channels + scores(layer, "mlp.down_proj", found.ffn).sum(0)
        assert mask.channels.tolist() == sorted(np.argsort(-channels)[: len(mask.channels)].tolist())
    assert {len(p) for mask in start.layers for p in mask.pairs} == {round(0.7 * H / 2)}
    wider = [replace(m, channels=torch.arange(len(m.channels) + 1)) for m in start.layers]
    budget = 0.7 * setting.dense_parameters
    assert start.parameters(setting.shape) <= budget < Masks(tuple(wider)).parameters(setting.shape)


def test_fitness_is_the_loss_of_the_unreformed_masked_model(setting: Setting) -> None:
    breeder = paper.Breeder(setting, 0.7, lambda kept, *_: kept)
    start = breeder.uniform()
    layers = [m.weights(setting.shape, w) for m, w in zip(start.layers, setting.layers, strict=True)]
    logprobs = setting.head.logprobs(setting.hidden(layers, breeder._windows))[:, :-1]
    expected = -logprobs.gather(-1, breeder._windows[:, 1:, None]).mean()
    assert breeder.loss(start) == pytest.approx(float(expected), rel=1e-5)
    fit = {tuple(window.tolist()) for window in setting.fit}
    assert {tuple(window.tolist()) for window in breeder._windows} < fit


def test_the_search_repeats_by_seed_and_improves_on_its_start(setting: Setting) -> None:
    short, again = make(setting, 0.6), make(setting, 0.6)
    assert short.facts == again.facts
    assert short.logprobs(setting.heldout).equal(again.logprobs(setting.heldout))
    assert make(setting, 0.6, seed=1).facts != short.facts
    longer = make(setting, 0.6, evaluations=200)
    assert short.candidates < longer.candidates <= 200
    breeder = paper.Breeder(setting, 0.6, lambda kept, *_: kept)
    assert max(short.facts["fitness"], longer.facts["fitness"]) < breeder.loss(breeder.uniform())


def test_literal_mutation_ends_as_drawing_sets_until_one_is_similar_does() -> None:
    kept, width, size = torch.tensor([0, 1, 2, 3]), 5, 4
    sampler, rng = paper.RejectionSampler(0), np.random.default_rng(1)
    ours = Counter(tuple(sampler(kept, width, size).tolist()) for _ in range(4000))

    def drawn() -> tuple[int, ...]:
        while True:
            found = rng.choice(width, size, replace=False)
            if len({*found.tolist()} & {*kept.tolist()}) >= 0.8 * width:
                return tuple(sorted(found.tolist()))

    assert set(ours) == {drawn() for _ in range(50)} == {(0, 1, 2, 3)}
    kept, width, size = torch.arange(9), 10, 9
    ours = Counter(tuple(sampler(kept, width, size).tolist()) for _ in range(4000))
    kept, theirs = torch.arange(9), Counter(drawn() for _ in range(4000))
    assert set(ours) == set(theirs)
    assert all(abs(ours[units] - theirs[units]) < 150 for units in ours)
    assert sampler.failed == 0


def test_literal_mutation_fails_below_the_share_it_asks_for(setting: Setting) -> None:
    sampler, kept = paper.RejectionSampler(0), torch.arange(7)
    assert sampler(kept, 10, 7).equal(kept)
    assert sampler(torch.arange(10), 10, 7).equal(torch.arange(10))
    assert (sampler.asked, sampler.failed) == (2, 2)
    facts = make(setting, 0.9, "paper-literal").facts
    assert 0 < facts["mask_draws_failed"] < facts["mask_draws"]
    facts = make(setting, 0.5, "paper-literal").facts
    assert 0 < facts["mask_draws_failed"] == facts["mask_draws"]
