"""What is only true of experts: in plans, spaces, tables, reforms, refusals and reports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig

from lathe.artefact.errors import UserError
from lathe.artefact.modeling import register
from lathe.artefact.plan import LayerShape, ModelShape, Plan
from lathe.compressor.export.checkpoint import export_checkpoint
from lathe.compressor.latency.designs import designs
from lathe.compressor.latency.table import EXPERT_TERMS, features, fit
from lathe.compressor.model.pruning import ImportanceRanking, select
from lathe.compressor.reconstruction.closed_form import damped, reconstruct
from lathe.compressor.search.space import make_space, memory_constraint, parameter_constraint
from support.compress_command import Tiny
from support.tiny_families import family_checkpoint, first_of_each
from support.tiny_models import tiny

MIXTURE = ModelShape(64, 120, 16, True, 4, LayerShape(8, 4, 96, 8), experts=8, experts_per_token=2)


@st.composite
def mixtures(draw: st.DrawFn) -> ModelShape:
    experts, depth = draw(st.integers(1, 130)), draw(st.integers(1, 5))
    layer, chosen = LayerShape(8, 4, draw(st.integers(1, 15_000)), experts), draw(st.integers(1, experts))
    return ModelShape(64, 120, 16, True, depth, layer, experts=experts, experts_per_token=chosen)


@given(mixtures(), st.data())
def test_levels_of_experts_are_few_legal_and_cost_what_the_model_does(
    shape: ModelShape, data: st.DataObject
) -> None:
    space, dense = make_space(shape), shape.layer
    *pairs, dropped = space.ffn
    assert dropped == 0
    assert pairs[0] == (dense.experts, dense.ffn)
    assert len(set(pairs)) == len(pairs) <= 5 * 10
    assert all(shape.experts_per_token <= experts <= shape.experts for experts, _ in pairs)
    assert all(1 <= width <= dense.ffn for _, width in pairs)
    sizes = [experts * width for experts, width in pairs]
    assert sizes == sorted(sizes, reverse=True)
    levels = [len(space.levels(kind)) for _, kind in space.blocks]
    indices = data.draw(st.tuples(*(st.integers(0, n - 1) for n in levels)).map(list))
    plan = space.plan(indices)
    assert space.indices(plan) == indices
    assert parameter_constraint(space, shape, 0.5).cost(plan) == shape.decoder_parameters(plan)
    memory = memory_constraint(space, shape, 1e9, weight_bytes={0: 4}, kv_bytes=2, tokens=100)
    assert memory.cost(plan) == shape.weight_bytes(plan, 4) + 100 * shape.kv_bytes_per_token(plan, 2)


def test_a_plan_says_how_many_experts_where_there_are_any_and_older_plans_have_all() -> None:
    plan = Plan((LayerShape(8, 4, 96, 3), LayerShape(8, 4, 0), LayerShape(8, 4, 96)))
    document = json.loads(json.dumps(plan.to_json()))
    assert [layer.get("experts") for layer in document["layers"]] == [3, None, None]
    assert Plan.from_json(document) == plan
    assert [layer.experts for layer in plan.with_experts(8)] == [3, 0, 8]
    assert MIXTURE.decoder_parameters(plan) == MIXTURE.decoder_parameters(plan.with_experts(8))
    with pytest.raises(UserError, match="experts have no channels"):
        LayerShape(8, 4, 0, 3)


def test_a_table_tells_what_is_read_of_all_experts_from_what_a_token_uses() -> None:
    plans = designs(make_space(MIXTURE), MIXTURE.dense_plan, 4)
    timed = [*((plan, 0.25) for plan in plans), (plans[0], 1.0)]
    planted = (1.0, 3.0, 0.5, 0.1, 0.05, 0.2, 0.01, 0.002)
    times = [float(features(plan, 1, EXPERT_TERMS, head) @ planted) for plan, head in timed]
    terms, _ = fit([plan for plan, _ in timed], times, [head for _, head in timed])
    np.testing.assert_allclose([terms[t] for t in EXPERT_TERMS], planted, atol=1e-6)


def test_those_that_stay_are_reformed_each_by_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(5, 12, generator=generator), torch.randn(3, 40, 4, generator=generator).double()
    gram = damped(x.mT @ x, 1e-3)
    order = ImportanceRanking(
        torch.arange(1),
        torch.arange(1)[:, None],
        torch.tensor([[2, 0, 1, 3], [4, 7, 5, 6], [11, 10, 9, 8]]),
        torch.tensor([2, 0, 1]),
    )
    kept = select(order, LayerShape(0, 0, 2, 2))
    assert (kept.experts.tolist(), kept.channels.tolist()) == ([0, 2], [0, 2, 10, 11])
    assert kept.shape == LayerShape(0, 0, 2, 2)
    found = reconstruct(weight, gram, kept.channels)
    alone = (
        reconstruct(weight[:, :4], gram[0], torch.tensor([0, 2])),
        reconstruct(weight[:, 8:], gram[2], torch.tensor([2, 3])),
    )
    torch.testing.assert_close(found, torch.cat(alone, 1))


def test_a_checkpoint_with_fewer_experts_than_a_token_uses_is_refused(tmp_path: Path) -> None:
    source = family_checkpoint(tmp_path / "dense", "mixtral")
    plan = source.shape.dense_plan.replace(1, LayerShape(8, 4, 96, 1))
    export_checkpoint(tmp_path / "out", first_of_each(source, plan))
    register()
    with pytest.raises(Exception, match="layer 1: 1 experts, of which a token uses 2"):
        AutoConfig.from_pretrained(tmp_path / "out")


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny(tmp_path_factory.mktemp("mixtral"), "mixtral", "untied", "one file")


def layers(*widths: tuple[int, int]) -> dict[str, object]:
    """A plan document: (experts, channels of each) by layer; 0 experts: not said."""
    rows = [{"query_heads": 8, "kv_heads": 4, "ffn": w, **({"experts": n} if n else {})} for n, w in widths]
    return {"format": "lathe-plan/1", "layers": rows}


@pytest.mark.usefixtures("steady")
def test_a_given_plan_of_experts_is_made_and_reported(mixtral: Tiny, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(layers((2, 96), (0, 96), (3, 48), (0, 0))))
    done = mixtral.compress(tmp_path / "out", "--plan", str(tmp_path / "plan.json"))
    assert done.exit_code == 0, done.output
    assert "3 x 48" in done.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row.get("experts") for row in report["layers"]] == [2, 4, 3, None]
    assert report["dense_layer"]["experts"] == 4
    assert report["parity"]["onnx_vs_transformers"] < 2e-4
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["per_layer_config"] == {"0": {"experts": 2}, "2": {"experts": 3, "intermediate_size": 48}}
    assert "3 x 48 of 4 x 96" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("widths", "message"),
    [((1, 96), "layer 0 has 1 experts of 96 FFN channels"), ((4, 95), "layer 0 has 4 experts of 95 FFN")],
)
def test_a_plan_of_experts_that_does_not_fit_is_refused(
    mixtral: Tiny, tmp_path: Path, widths: tuple[int, int], message: str
) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(layers(widths, (4, 96), (4, 96), (4, 96))))
    done = mixtral.compress(tmp_path / "out", "--plan", str(tmp_path / "plan.json"))
    assert done.exit_code == 1
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("steady")
def test_a_search_for_rounded_experts_keeps_to_widths_of_its_kernels(mixtral: Tiny, tmp_path: Path) -> None:
    done = mixtral.compress(tmp_path / "out", "--keep", "60%", "--export", "checkpoint,onnx-int4")
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert all(row["ffn"] % 32 == 0 for row in report["layers"])
    assert report["quantization"]["scheme"] == "int4"
