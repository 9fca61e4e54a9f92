"""What our vLLM classes ask of quantized weights, without vLLM: its config is four attributes here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lathe.artefact.modeling.vllm_quantized import checked, refuse_formats

PACKED, INT8 = ("pack-quantized", 4, 32, False), ("int-quantized", 8, None, True)
Tensors = list[tuple[str, torch.Tensor]]


def config(*schemes: tuple[str, int, int | None, bool], kind: str = "int") -> Any:
    found = {
        f"model.layers.{i}.mlp.up_proj": {
            "weights": SimpleNamespace(num_bits=bits, group_size=group, type=kind),
            "input_activations": object() if rounded else None,
            "format": form,
        }
        for i, (form, bits, group, rounded) in enumerate(schemes)
    }
    return SimpleNamespace(target_scheme_map=found, quant_format="mixed-precision")


def four(scales: torch.Tensor | None = None) -> Tensors:
    stored = torch.full((6, 2), 0.5, dtype=torch.bfloat16) if scales is None else scales
    return [("a.weight_packed", torch.zeros(6, 8, dtype=torch.int32)), ("a.weight_scale", stored)]


def eight(scales: torch.Tensor | None = None) -> Tensors:
    stored = torch.full((6, 1), 0.5) if scales is None else scales
    return [("b.weight", torch.zeros(6, 64, dtype=torch.int8)), ("b.weight_scale", stored)]


OTHERS: Tensors = [("norm.weight", torch.full((4,), torch.nan)), ("c.weight", torch.zeros(6, 64))]


@pytest.mark.parametrize("backwards", [False, True])
def test_all_weights_come_as_they_are(backwards: bool) -> None:
    given = [*four(), *eight(), *OTHERS]
    given = given[::-1] if backwards else given
    found = list(checked(given, config(PACKED, INT8)))
    assert [name for name, _ in found] == [name for name, _ in given]
    assert all(one is other for (_, one), (_, other) in zip(found, given, strict=True))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, -0.5, 0.0])
@pytest.mark.parametrize("weights", [four, eight])
def test_scales_that_no_rounding_makes_are_refused(weights: Any, value: float) -> None:
    (codes, (name, scales)) = weights()
    scales[2] = value
    said = {"nan": "NaN", "inf": "infinite", "-inf": "infinite or negative", "-0.5": "negative"}
    message = f"`{name}` has scales that are {said.get(str(value), 'zero')}: the checkpoint is damaged"
    with pytest.raises(ValueError, match=message):
        list(checked([codes, (name, scales)], config(PACKED, INT8)))


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(
    "given",
    [
        four(torch.ones(5, 2)),
        four(torch.ones(6, 1)),
        four(torch.ones(6, 4)),
        eight(torch.ones(5, 1)),
        eight(torch.ones(6, 2)),
    ],
)
def test_scales_that_are_not_as_many_as_their_codes_need_are_refused(given: Tensors, backwards: bool) -> None:
    message = r"has \d x \d scales for 6 rows of codes: the checkpoint is damaged: export it again"
    with pytest.raises(ValueError, match=message):
        list(checked(given[::-1] if backwards else given, config(PACKED, INT8)))


def test_weights_of_other_checkpoints_are_not_looked_at() -> None:
    damaged = [*four(torch.full((6, 2), torch.nan)), *OTHERS]
    for other in (None, SimpleNamespace(), config(PACKED, kind="float")):
        assert len(list(checked(damaged, other))) == len(damaged)


def test_formats_that_it_has_kernels_for() -> None:
    for cpu in (True, False):
        refuse_formats(config(PACKED, INT8), cpu)
        refuse_formats(config(("nvfp4-pack-quantized", 4, 16, False), kind="float"), cpu)
        refuse_formats(None, cpu)
    refuse_formats(config(("pack-quantized", 8, 32, False)), cpu=False)


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        (("pack-quantized", 8, 32, False), "8 bits, pack-quantized, with float activations"),
        (("pack-quantized", 3, 32, False), "3 bits, pack-quantized, with float activations"),
        (("int-quantized", 8, None, False), "8 bits, int-quantized, with float activations"),
        (("pack-quantized", 4, 32, True), "4 bits, pack-quantized, with rounded activations"),
    ],
)
def test_formats_without_a_cpu_kernel_are_refused(scheme: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"no CPU kernel for model\.layers\.1\.mlp\.up_proj in {message}"):
        refuse_formats(config(PACKED, scheme), cpu=True)


def test_an_unknown_format_is_refused_everywhere() -> None:
    unknown = config(("dense", 4, 32, False))
    for cpu in (True, False):
        with pytest.raises(ValueError, match="format `dense`; vLLM knows pack-quantized and int-quantized"):
            refuse_formats(unknown, cpu)
    unknown.target_scheme_map["model.layers.0.mlp.up_proj"]["format"] = None
    with pytest.raises(ValueError, match="format `mixed-precision`"):
        refuse_formats(unknown, cpu=False)
