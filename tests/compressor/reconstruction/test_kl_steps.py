"""Refining the whole subnet in one pass over the text: what it gains, what it reads, what it changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lathe.artefact.plan import Plan
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.compute.workers import LocalWorkers
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.reconstruction.kl_passes import ROWS, KLProblem
from lathe.compressor.reconstruction.kl_refinement import ModelStep, refine_model
from lathe.compressor.reconstruction.kl_steps import count_steps, part_of, refine_in_steps
from support.tiny_llama import PLANS, tokens
from support.tiny_problem import Lab, make_lab

WINDOWS, HELDOUT = tokens(160, 64), torch.arange(160) >= 140


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return make_lab(tmp_path_factory.mktemp("dense"), attention_bias=True)


def problem(lab: Lab, plan: Plan, store: ArrayStore | None = None) -> KLProblem:
    return KLProblem(lab.model, lab.first_units(plan), WINDOWS, HELDOUT, store or ArrayStore())


@pytest.mark.parametrize("name", ["mixed", "groups", "no ffn last"])
def test_steps_on_parts_come_as_near_to_dense_as_one_iteration_on_all_of_the_text(
    lab: Lab, name: str
) -> None:
    whole = problem(lab, PLANS[name])
    layers, before, after = refine_in_steps(whole)
    assert after < 0.9 * before
    assert after < 1.05 * refine_model(whole, iterations=1)[2]
    again = ModelStep(KLProblem(lab.model, layers, WINDOWS, HELDOUT), LocalWorkers())
    assert again.error(again.start) == pytest.approx(after, rel=1e-4)


def test_only_projections_change(lab: Lab) -> None:
    whole = problem(lab, PLANS["mixed"])
    for mine, was in zip(refine_in_steps(whole)[0], whole.subnet, strict=True):
        assert {n: v.shape for n, v in mine.items()} == {n: v.shape for n, v in was.items()}
        assert {n for n in was if not torch.equal(mine[n], was[n])} == {n for n in was if was[n].dim() == 2}


def test_parts_share_no_window_and_are_all_of_the_text_to_fit(lab: Lab) -> None:
    whole, count = problem(lab, PLANS["mixed"]), count_steps(WINDOWS, HELDOUT)
    parts = [part_of(whole, number, count) for number in range(count)]
    fitted = torch.cat([part.windows for part in parts])
    assert count == 4
    assert sorted(fitted.tolist()) == sorted(WINDOWS[~HELDOUT].tolist())
    assert not any(part.heldout.any() for part in parts)


def test_a_short_text_is_one_part() -> None:
    assert count_steps(WINDOWS[:20], HELDOUT[:20]) == 1


def test_a_long_text_is_not_read_to_its_end() -> None:
    assert count_steps(tokens(16, 2048), torch.zeros(16, dtype=torch.bool)) == 5


def test_lengths_are_chosen_on_about_as_many_held_out_tokens_as_a_step_reads(lab: Lab) -> None:
    many = torch.arange(160) % 2 == 0
    whole = replace(problem(lab, PLANS["mixed"]), heldout=many)
    layers, _, after = refine_in_steps(whole)
    read = whole.some(torch.nonzero(many)[::2, 0])
    again = ModelStep(replace(read, subnet=layers), LocalWorkers())
    assert again.error(again.start) == pytest.approx(after, rel=1e-4)


def test_what_is_fixed_stays_as_it_is(lab: Lab) -> None:
    names = [{"mlp.down_proj.weight"}, {"self_attn.o_proj.weight"}, set[str](), {"self_attn.o_proj.weight"}]
    whole = replace(problem(lab, PLANS["ffn"]), outputs_only=True, fixed=names)
    found, before, after = refine_in_steps(whole)
    assert after < before
    for mine, was, fixed in zip(found, whole.subnet, names, strict=True):
        outputs = {name for name in was if name.endswith(("o_proj.weight", "down_proj.weight"))}
        assert {name for name in was if not torch.equal(mine[name], was[name])} == outputs - fixed


@pytest.mark.parametrize("refine", [refine_in_steps, refine_model])
def test_where_all_is_fixed_nothing_changes(lab: Lab, refine: Callable[..., Any]) -> None:
    outputs = {"self_attn.o_proj.weight", "mlp.down_proj.weight"}
    whole = replace(problem(lab, PLANS["ffn"]), outputs_only=True, fixed=[outputs] * 4)
    found, before, after = refine(whole)
    assert before == after > 0
    for mine, was in zip(found, whole.subnet, strict=True):
        assert all(torch.equal(mine[name], was[name]) for name in was)


def test_states_that_are_known_are_not_computed_again(lab: Lab) -> None:
    whole = problem(lab, PLANS["mixed"])
    expected = refine_in_steps(whole)
    without_layers = replace(lab.model, layers=[])
    found = refine_in_steps(replace(whole, model=without_layers, dense=dense_states(lab)))
    assert found[1:] == pytest.approx(expected[1:], rel=1e-3)  # of exact products here, of rough ones there


@torch.no_grad()
def dense_states(lab: Lab) -> torch.Tensor:
    hidden = lab.model.embedding[WINDOWS]
    for index, layer in enumerate(lab.layers):
        for part in torch.arange(len(WINDOWS)).split(ROWS):
            hidden[part] = lab.runner.at(index).layer(layer, hidden[part])
    return hidden


def test_a_subnet_that_is_right_stays_as_it_is(lab: Lab) -> None:
    dense: list[Weights] = lab.layers
    layers, before, after = refine_in_steps(KLProblem(lab.model, dense, WINDOWS, HELDOUT))
    assert (before, after) == (pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-6))
    for mine, was in zip(layers, dense, strict=True):
        for name, value in was.items():
            torch.testing.assert_close(mine[name], value, rtol=0, atol=1e-4)


def test_on_disk_and_again_it_is_the_same(lab: Lab, tmp_path: Path) -> None:
    memory = refine_in_steps(problem(lab, PLANS["groups"]))
    disk = refine_in_steps(problem(lab, PLANS["groups"], ArrayStore(tmp_path)))
    assert memory[1:] == disk[1:]
    for mine, its in zip(memory[0], disk[0], strict=True):
        assert all(torch.equal(mine[name], its[name]) for name in mine)
