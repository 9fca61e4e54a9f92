"""Scales of an int8 KV cache: no value of any position is cut, in the text or in a longer context."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.model.cache_rounding import HIGHEST
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.statistics.cache_scales import lengths, measure_cache_scales
from support.tiny_families import family_checkpoint
from support.tiny_llama import tokens


class Recorder:
    """Keeps what attention gives its cache."""

    def __init__(self) -> None:
        self.keys = self.values = torch.empty(0)

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_args: Any) -> tuple[torch.Tensor, ...]:
        self.keys, self.values = keys, values
        return keys, values


def opened(path: Path, case: str) -> LayeredModel:
    return LayeredModel.open(family_checkpoint(path, case), ArrayStore())


def recorded(model: LayeredModel, ids: torch.Tensor) -> list[Recorder]:
    caches = [Recorder() for _ in model.layers]
    with torch.no_grad():
        model(ids, dict(enumerate(caches)))
    return caches


def largest(states_BKTH: torch.Tensor) -> torch.Tensor:
    return states_BKTH.abs().amax((0, 2))


@pytest.mark.parametrize(
    ("case", "rotated"), [("llama, plain", 16), ("phi3, partly rotated, window", 24), ("opt", 0)]
)
def test_scales_are_the_largest_lengths_on_the_text(tmp_path: Path, case: str, rotated: int) -> None:
    model, ids = opened(tmp_path, case), tokens(6, 40)
    found = measure_cache_scales(model, ids, ArrayStore())
    assert list(found) == [*range(len(model.layers))]
    for index, seen in enumerate(recorded(model, ids)):
        turned = seen.keys[..., :rotated].unflatten(-1, (2, -1)).square().sum(-2).sqrt().amax((0, 2))
        expected = torch.cat([turned, turned, largest(seen.keys[..., rotated:])], -1)
        torch.testing.assert_close(HIGHEST * found[index].keys, expected)
        torch.testing.assert_close(HIGHEST * found[index].values, largest(seen.values))


def test_text_on_disk_gives_the_same(tmp_path: Path) -> None:
    model, ids = opened(tmp_path, "llama, plain"), tokens(6, 40)
    found = [measure_cache_scales(model, ids, store) for store in (ArrayStore(), ArrayStore(tmp_path))]
    for index, scales in found[0].items():
        assert torch.equal(scales.keys, found[1][index].keys)


def test_keys_of_positions_that_the_text_has_not_fit(tmp_path: Path) -> None:
    """The first layer's keys depend on a token and its position alone."""
    model, ids = opened(tmp_path, "llama, plain"), torch.arange(120)[:, None].expand(-1, 8)
    scales = measure_cache_scales(model, ids, ArrayStore())[0]
    far = recorded(model, torch.arange(120)[:, None].expand(-1, 400))[0].keys
    near = recorded(model, ids)[0].keys
    assert bool((largest(far) <= 1.0001 * HIGHEST * scales.keys).all())
    assert float((largest(far) / largest(near)).max()) > 1.2, "the largest values of the text are too small"


def test_an_empty_channel_has_a_scale() -> None:
    from lathe.compressor.statistics.cache_scales import _scales

    peaks = torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    assert (HIGHEST * _scales(peaks)).tolist() == [[pytest.approx(2e-3), 2.0], [1.0, 1.0]]


def test_lengths_are_of_pairs_half_the_rotated_part_apart() -> None:
    keys = torch.tensor([3.0, 1.0, 4.0, 0.0, -7.0]).view(1, 1, 1, 5)
    assert lengths(keys, 4).flatten().tolist() == [5.0, 1.0, 5.0, 1.0, 7.0]
