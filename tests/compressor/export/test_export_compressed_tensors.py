"""Rounding and packing. That vLLM and the compressed-tensors library read it: tests/on_vllm."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lathe.compressor.export.compressed_tensors import SCHEMES, Scheme, pack
from lathe.compressor.model import rounding
from lathe.compressor.model.rounding import round_matrix


def matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.1


def unpacked(words: torch.Tensor) -> list[list[int]]:
    """Bit by bit, on Python's integers."""
    return [[(word >> 4 * place & 15) - 8 for word in row for place in range(8)] for row in words.tolist()]


@given(st.integers(1, 5), st.integers(1, 4), st.data())
@settings(deadline=None)
def test_packed_codes_come_back(rows: int, words: int, data: st.DataObject) -> None:
    row = st.lists(st.integers(-8, 7), min_size=8 * words, max_size=8 * words)
    codes = data.draw(st.lists(row, min_size=rows, max_size=rows))
    packed = pack(torch.tensor(codes, dtype=torch.int8))
    assert packed.dtype == torch.int32
    assert packed.shape == (rows, words)
    assert unpacked(packed) == codes


@given(
    st.sampled_from([(4, 32), (4, 8), (8, None)]), st.integers(1, 6), st.integers(1, 3), st.floats(-30, 15)
)
@settings(deadline=None)
def test_every_value_goes_to_the_nearest_code(
    kind: tuple[int, int | None], rows: int, groups: int, exponent: float
) -> None:
    """And clipping is only done where it lowers the group's squared error."""
    bits, group = kind
    half, width = 2 ** (bits - 1), group or 24
    weight = matrix(rows, groups * width) * 2.0**exponent
    codes, scales = round_matrix(weight, bits, group)
    assert scales.shape == (rows, groups if group else 1)
    assert (scales > 0).all()
    assert torch.equal(scales, scales.bfloat16().float())
    each = scales.repeat_interleave(group or weight.shape[1], 1)
    assert torch.equal(codes, (weight / each).round().clamp(-half, half - 1).to(torch.int8))
    unclipped = weight.view(rows, scales.shape[1], -1).abs().amax(-1) / (half - 1)
    plain = unclipped.bfloat16().float().repeat_interleave(group or weight.shape[1], 1)
    bound = ((weight / plain).round().clamp(-half, half - 1) * plain - weight).square().sum()
    assert (codes * each - weight).square().sum() <= bound * (1 + 1e-5)


def test_a_little_clipping_is_better_than_none() -> None:
    weight = matrix(256, 256)
    codes, scales = round_matrix(weight, 4, 32)
    found = (codes * scales.repeat_interleave(32, 1) - weight).norm() / weight.norm()
    assert found < 0.09  # 0.097 with the largest value of each group at 7


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=str)
def test_zeros_stay_zeros(scheme: Scheme) -> None:
    weight = matrix(4, 64)
    weight[1:, :32] = 0
    weight[3] = 0
    codes, _ = round_matrix(weight, scheme.bits, scheme.group)
    assert (codes[weight == 0] == 0).all()
    assert scheme.round(torch.zeros(4, 64)).error == 0


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=str)
def test_large_matrices_are_rounded_in_parts(scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = round_matrix(matrix(9, 64), scheme.bits, scheme.group)
    monkeypatch.setattr(rounding, "_BLOCK", 130)
    parts = round_matrix(matrix(9, 64), scheme.bits, scheme.group)
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_stored_is_what_was_announced(scheme: Scheme, dtype: torch.dtype) -> None:
    rounded = scheme.round(matrix(5, 96))
    parts, error = scheme.store("m.weight", rounded, dtype), rounded.error
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in parts.items()}
    assert found == scheme.entries("m.weight", (5, 96), dtype)
    assert list(parts) == list(found)
    scale = parts["m.weight_scale"].float()
    if scheme.bits == 8:
        assert found["m.weight"] == ((5, 96), torch.int8)
        values = parts["m.weight"] * scale
    else:
        assert found["m.weight_packed"] == ((5, 12), torch.int32)
        assert parts["m.weight_shape"].tolist() == [5, 96]
        values = torch.tensor(unpacked(parts["m.weight_packed"])) * scale.repeat_interleave(32, 1)
    assert error == pytest.approx(float((values - matrix(5, 96)).norm() / matrix(5, 96).norm()), rel=1e-4)
    assert error < (0.01 if scheme.bits == 8 else 0.1)


def test_the_config_entry() -> None:
    four, eight = (SCHEMES[name].config() for name in ("w4a16", "w8a8"))
    assert four["format"] == "pack-quantized"
    assert eight["format"] == "int-quantized"
    assert four["config_groups"]["group_0"]["weights"] == {
        "num_bits": 4,
        "type": "int",
        "symmetric": True,
        "dynamic": False,
        "strategy": "group",
        "group_size": 32,
    }
    assert four["config_groups"]["group_0"]["input_activations"] is None
    assert eight["config_groups"]["group_0"]["weights"]["strategy"] == "channel"
    assert eight["config_groups"]["group_0"]["input_activations"] == {
        "num_bits": 8,
        "type": "int",
        "symmetric": True,
        "dynamic": True,
        "strategy": "token",
    }
    for config in (four, eight):
        assert config["quant_method"] == "compressed-tensors"
        assert config["ignore"] == ["lm_head"]
        assert config["config_groups"]["group_0"]["targets"] == ["Linear"]
