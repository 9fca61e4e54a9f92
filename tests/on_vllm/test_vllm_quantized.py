"""Quantized checkpoints on vLLM, against plain PyTorch with the values that compressed-tensors reads."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from answers import NEW, Answer, Distance, ask, distance, engine, prompts
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationConfig
from test_vllm_parity import TINY
from test_vllm_trained import answers
from torch import nn
from transformers import AutoModelForCausalLM

from benchmarks.vllm.reference import reference, values
from lathe.artefact.atomic_files import write_json
from lathe.artefact.errors import UserError
from lathe.artefact.modeling import register
from lathe.artefact.plan import Plan
from lathe.compressor.export.artefact import is_artefact
from lathe.compressor.export.checkpoint import export_checkpoint
from lathe.compressor.export.compressed_tensors import SCHEMES, pack, round_matrix
from lathe.compressor.export.quantized import export_quantized
from support.tiny_llama import DENSE, VARIANTS, checkpoint, plan, pruned

EVEN = plan(DENSE, DENSE, DENSE, DENSE)
UNEVEN = plan((0, 0, 32), (3, 3, 64), (0, 0, 0), (4, 2, 0))
ODD = plan((0, 0, 33), (3, 3, 17), (8, 4, 1), (4, 2, 0))
SHARED = plan((4, 2, 64), (0, 0, 64), (2, 1, 64), (8, 4, 0))
NO_AMX = {"hidden_size": 72}
"""Widths that vLLM's int8 kernel for AMX does not take: oneDNN's is used, which has float32."""


def quantized(directory: Path, subnet: Plan, scheme: str, **changes: Any) -> Path:
    """An artefact of a random model, exported by us."""
    source = checkpoint(directory / "dense", **TINY | changes)
    export_checkpoint(directory / "artefact", pruned(source, subnet))
    write_json(directory / "artefact" / "plan.json", subnet.to_json())
    export_quantized(str(directory / "artefact"), directory / scheme, scheme=scheme)
    return directory / scheme


def served(directory: Path, **options: Any) -> Distance:
    with engine(directory, **options) as llm:
        given = ask(llm, prompts())
    assert [len(answer.new) for answer in given] == [NEW] * len(given)
    found = distance(reference(directory), given)
    show(f"{directory.parent.name} {options}", found)
    return found


def show(what: str, found: Distance) -> None:
    """With `pytest -s`: the figures of docs/vllm.md."""
    worst = max(found.misses, default=0.0)
    sys.stdout.write(f"\n{what}: {len(found.misses)} misses, worst {worst:.4f}; {found.largest:.4f}\n")


@pytest.fixture
def float_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's CPU build would round bfloat16 activations to int8 before 4-bit weights where there is AMX."""
    monkeypatch.setitem(os.environ, "VLLM_CPU_INT4_W4A8", "0")


@pytest.mark.parametrize("subnet", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_w4a16(tmp_path: Path, subnet: Plan) -> None:
    """vLLM's CPU kernel has no float32; float16 is the tightest that it has."""
    found = served(quantized(tmp_path, subnet, "w4a16"), dtype="float16")
    assert max(found.misses, default=0.0) < 0.01
    assert found.largest < 0.02


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "plain"])
def test_w4a16_variants(tmp_path: Path, variant: str) -> None:
    found = served(quantized(tmp_path, UNEVEN, "w4a16", **VARIANTS[variant]), dtype="float16")
    assert max(found.misses, default=0.0) < 0.01
    assert found.largest < 0.02


@pytest.mark.usefixtures("float_activations")
def test_w4a16_in_bfloat16(tmp_path: Path) -> None:
    found = served(quantized(tmp_path, UNEVEN, "w4a16", dtype=torch.bfloat16), dtype="bfloat16")
    assert max(found.misses, default=0.0) < 0.1
    assert found.largest < 0.3


def test_w4a16_as_vllm_runs_it_by_itself(tmp_path: Path) -> None:
    found = served(quantized(tmp_path, UNEVEN, "w4a16", dtype=torch.bfloat16), dtype="auto")
    assert max(found.misses, default=0.0) < 0.2
    assert found.largest < 0.6


@pytest.mark.parametrize("subnet", [EVEN, UNEVEN, ODD], ids=["even", "uneven", "odd"])
def test_w8a8(tmp_path: Path, subnet: Plan) -> None:
    found = served(quantized(tmp_path, subnet, "w8a8", **NO_AMX), dtype="float32")
    assert max(found.misses, default=0.0) < 0.01
    assert found.largest < 0.05


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "plain"])
def test_w8a8_variants(tmp_path: Path, variant: str) -> None:
    found = served(quantized(tmp_path, ODD, "w8a8", **NO_AMX | VARIANTS[variant]), dtype="float32")
    assert max(found.misses, default=0.0) < 0.01
    assert found.largest < 0.05


@pytest.mark.parametrize("subnet", [UNEVEN, ODD], ids=["uneven", "odd"])
def test_w8a8_in_bfloat16(tmp_path: Path, subnet: Plan) -> None:
    found = served(quantized(tmp_path, subnet, "w8a8", dtype=torch.bfloat16), dtype="bfloat16")
    assert max(found.misses, default=0.0) < 0.1
    assert found.largest < 0.3


def test_the_comparison_notices_activations_that_are_not_rounded(tmp_path: Path) -> None:
    directory = quantized(tmp_path, ODD, "w8a8", **NO_AMX)
    with engine(directory, dtype="float32") as llm:
        given = ask(llm, prompts())
    rounded, plain = (distance(reference(directory, int8), given) for int8 in (True, False))
    assert plain.largest > 3 * rounded.largest


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["w4a16", "w8a8"])
def test_tensor_parallel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setitem(os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    monkeypatch.setitem(os.environ, "VLLM_CPU_INT4_W4A8", "0")
    directory = quantized(tmp_path, SHARED, scheme, dtype=torch.bfloat16)
    options = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp", "dtype": "bfloat16"}
    found = served(directory, **options)
    assert max(found.misses, default=0.0) < 0.1
    assert found.largest < 0.3


@pytest.mark.parametrize("scheme", SCHEMES)
def test_transformers_reads_the_same_values(tmp_path: Path, scheme: str) -> None:
    """Where compressed-tensors is installed. (It rounds activations to another scale than vLLM.)"""
    register()
    directory = quantized(tmp_path, UNEVEN, scheme)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        model(torch.tensor([prompts()[0]]))  # codes become values
    loaded = model.state_dict()
    for name, value in values(directory).items():
        torch.testing.assert_close(loaded[name], value, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=str)
def test_the_library_reads_the_config(scheme: Any) -> None:
    (read,) = QuantizationConfig.model_validate(scheme.config()).config_groups.values()
    assert (read.weights.num_bits, read.weights.group_size) == (scheme.bits, scheme.group)
    assert (read.input_activations is None) == (scheme.bits == 4)


def test_packing_is_the_librarys() -> None:
    codes, _ = round_matrix(torch.randn(48, 96, generator=torch.Generator().manual_seed(0)), 4, 32)
    assert torch.equal(pack(codes), pack_to_int32(codes, 4))


def test_a_trained_artefact(artefact: Path, tmp_path: Path) -> None:
    """Its FFN widths are multiples of 16: int8 takes them, groups of 32 do not."""
    layers = Plan.load(artefact / "plan.json").layers
    index = next(i for i, layer in enumerate(layers) if layer.ffn % 32)
    with pytest.raises(UserError, match=f"layer {index} .* {layers[index].ffn} FFN channels"):
        export_quantized(str(artefact), tmp_path / "w4a16", scheme="w4a16")
    assert list(tmp_path.iterdir()) == []
    export_quantized(str(artefact), tmp_path / "w8a8", scheme="w8a8")
    assert is_artefact(tmp_path / "w8a8")
    model = reference(tmp_path / "w8a8", int8=True)
    given = answers(tmp_path / "w8a8", "bfloat16")
    found = distance(model, given)
    half = reference(tmp_path / "w8a8", int8=True).bfloat16()
    own = distance(model, [rescored(half, answer) for answer in given])
    show("trained, bfloat16", found)
    show("trained, PyTorch in bfloat16", own)
    assert max(found.misses, default=0.0) < 0.25
    assert found.largest < 1.5 * own.largest


@torch.inference_mode()
def rescored(model: nn.Module, answer: Answer) -> Answer:
    """The same tokens with PyTorch's own log-probabilities in whatever dtype `model` has."""
    given = model(torch.tensor([answer.ids])).logits[0].float().log_softmax(-1)
    scored = {i: {token: float(given[i - 1, token]) for token in row} for i, row in answer.scored.items()}
    return replace(answer, scored=scored)
