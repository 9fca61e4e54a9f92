"""Embedding and head in few bits, against transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lathe.compressor.model.rounding import groups_for, quantize_matrix
from lathe.compressor.reconstruction.rounded_head import RoundedTable, round_head
from support.tiny_llama import PLANS, reference
from support.tiny_problem import Lab, make_lab

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Lab:
    return make_lab(tmp_path / "model", tie_word_embeddings=request.param)


@torch.no_grad()
def read_by_the_head(lab: Lab) -> torch.Tensor:
    model = reference(lab.source, PLANS["dense"])
    return model.model(lab.windows).last_hidden_state.flatten(0, 1)


def test_logits_change_less_than_by_rounding_to_nearest(lab: Lab) -> None:
    found, x = round_head(lab.model, lab.windows, 4), read_by_the_head(lab)
    name = EMBEDDING if lab.source.shape.tied_embeddings else HEAD
    table, other = lab.source.tensor(name), found[name]
    nearest = quantize_matrix(table, 4, [other.group]).values
    errors = [float((x @ (values - table).T).norm()) for values in (other.values, nearest)]
    assert other.bits == 4
    assert table.shape[1] % other.group == 0, "GatherBlockQuantized pads no row"
    assert errors[0] < 0.9 * errors[1]


def test_an_embedding_of_its_own_and_8_bits_are_rounded_to_nearest(lab: Lab) -> None:
    tied = lab.source.shape.tied_embeddings
    names = [EMBEDDING] if tied else [EMBEDDING, HEAD]
    table = lab.source.tensor(EMBEDDING)
    for bits in (8, 4):
        found = round_head(lab.model, lab.windows, bits)
        assert list(found) == names
        nearest = quantize_matrix(table, bits, groups_for(table.shape[1], 0.0))
        assert torch.equal(found[EMBEDDING].codes, nearest.codes) == (bits == 8 or not tied)


def test_a_table_in_codes_gives_the_rows_of_tokens(lab: Lab) -> None:
    matrix = round_head(lab.model, lab.windows, 8)[EMBEDDING]
    rows = RoundedTable(matrix)[lab.windows[:2]]
    assert torch.equal(rows, matrix.values[lab.windows[:2]])
