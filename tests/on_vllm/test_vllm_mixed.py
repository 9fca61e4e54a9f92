"""Checkpoints whose blocks have bits of their own on vLLM: 4 and 8 bits, and blocks that stay as they are."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from answers import NEW, Answer, Distance, ask, distance, engine, prompts
from compressed_tensors.quantization import QuantizationConfig
from safetensors.torch import load_file, save_file
from test_vllm_parity import TINY
from test_vllm_quantized import SHARED, show
from transformers import AutoModelForCausalLM

from benchmarks.vllm.reference import half_reference, reference, values
from lathe.artefact.atomic_files import write_json
from lathe.artefact.checkpoint_config import read_document
from lathe.artefact.modeling import register
from lathe.artefact.plan import LayerShape, Plan
from lathe.compressor.export.checkpoint import export_checkpoint
from lathe.compressor.export.vllm_mixed import export_mixed
from support.tiny_families import FIRST, family_checkpoint, first_of_each
from support.tiny_llama import VARIANTS, checkpoint, pruned

UNEVEN = Plan(
    (
        LayerShape(0, 0, 33, ffn_bits=8),
        LayerShape(3, 3, 64, attention_bits=4, ffn_bits=8),
        LayerShape(8, 4, 32, attention_bits=8, ffn_bits=4),
        LayerShape(4, 2, 17, attention_bits=4),
    )
)
"""Attention in 4, 8 and 4 bits; FFNs in 8, 8 and 4, and one as it is. Odd widths have 8 bits or none."""
STEPS = {"float16": 0.02, "bfloat16": 0.04}
"""How near two tokens are that these types cannot tell apart."""
EXPERTS = re.compile("moe|mixtral|gpt_oss")


def mixed(directory: Path, subnet: Plan = UNEVEN, **changes: Any) -> Path:
    """An artefact of a random model, exported by us with the bits of its plan."""
    source = checkpoint(directory / "dense", **TINY | changes)
    export_checkpoint(directory / "artefact", pruned(source, subnet))
    write_json(directory / "artefact" / "plan.json", subnet.to_json())
    export_mixed(str(directory / "artefact"), directory / "mixed")
    return directory / "mixed"


def given(directory: Path, **options: Any) -> list[Answer]:
    with engine(directory, **options) as llm:
        answers = ask(llm, prompts())
    assert [len(answer.new) for answer in answers] == [NEW] * len(answers)
    return answers


def served(directory: Path, dtype: str, **options: Any) -> Distance:
    """Against float32, within the bounds of one format alone; against the served type, token for token.

    Returns the second.
    """
    answers = given(directory, dtype=dtype, **options)
    found = distance(reference(directory), answers)
    show(f"{directory.parent.name} {dtype} {options}", found)
    assert max(found.misses, default=0.0) < 0.1
    assert found.largest < 0.3
    near = distance(half_reference(directory, getattr(torch, dtype)), answers)
    show(f"{directory.parent.name} {dtype}, PyTorch in {dtype}", near)
    assert max(near.misses, default=0.0) < STEPS[dtype]
    assert near.largest < 0.2
    return near


@pytest.fixture(autouse=True)
def float_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's CPU build would round bfloat16 activations to int8 before 4-bit weights where there is AMX."""
    monkeypatch.setitem(os.environ, "VLLM_CPU_INT4_W4A8", "0")


@pytest.mark.parametrize("variant", VARIANTS)
def test_uneven_layers_with_bits_of_their_own(tmp_path: Path, variant: str) -> None:
    served(mixed(tmp_path, **VARIANTS[variant] | {"dtype": torch.bfloat16}), "bfloat16")


def test_in_float16(tmp_path: Path) -> None:
    """Eight bits in FFNs of odd widths only, which get a kernel that has float16 with AMX, too."""
    odd = Plan(
        (
            LayerShape(8, 4, 33, attention_bits=4, ffn_bits=8),
            LayerShape(3, 3, 17, ffn_bits=8),
            LayerShape(2, 1, 32, attention_bits=4, ffn_bits=4),
            LayerShape(4, 2, 40),
        )
    )
    served(mixed(tmp_path, odd, dtype=torch.float16), "float16")


@pytest.mark.parametrize("case", [case for case in FIRST.values() if not EXPERTS.search(case)])
def test_every_family(tmp_path: Path, case: str) -> None:
    source = family_checkpoint(tmp_path / "dense", case, head_dim=32)
    dense = source.shape.dense_plan.in_bits(8, 0)
    narrow = replace(source.shape.layer, ffn=64, attention_bits=4)
    subnet = Plan((narrow, *dense.layers[1:-1], LayerShape(0, 0, 32, ffn_bits=4)))
    export_checkpoint(tmp_path / "artefact", first_of_each(source, subnet))
    write_json(tmp_path / "artefact" / "plan.json", subnet.to_json())
    export_mixed(str(tmp_path / "artefact"), tmp_path / "mixed")
    found = distance(reference(tmp_path / "mixed"), given(tmp_path / "mixed", dtype="bfloat16"))
    show(case, found)
    assert max(found.misses, default=0.0) < 0.1
    assert found.largest < 0.3


@pytest.mark.slow
def test_tensor_parallel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    bits = ((4, 8), (0, 4), (8, 0), (4, 0))
    layers = zip(SHARED, bits, strict=True)
    shared = Plan(
        tuple(
            replace(layer, attention_bits=a * bool(layer.kv_heads), ffn_bits=f * bool(layer.ffn))
            for layer, (a, f) in layers
        )
    )
    directory = mixed(tmp_path, shared, dtype=torch.bfloat16)
    answers = given(directory, dtype="bfloat16", tensor_parallel_size=2, distributed_executor_backend="mp")
    found = distance(reference(directory), answers)
    show("tensor parallel", found)
    assert max(found.misses, default=0.0) < 0.1
    assert found.largest < 0.3


def test_an_engine_that_is_made_again_gives_the_same_answers(tmp_path: Path) -> None:
    directory = mixed(tmp_path, dtype=torch.bfloat16)
    first, second = (given(directory, dtype="bfloat16") for _ in range(2))
    assert first == second


def test_the_comparison_notices_bits_of_another_block(tmp_path: Path) -> None:
    directory = mixed(tmp_path, dtype=torch.bfloat16)
    answers = given(directory, dtype="bfloat16")
    swapped = UNEVEN.replace(2, LayerShape(8, 4, 32, attention_bits=4, ffn_bits=4))
    other = mixed(tmp_path / "other", swapped, dtype=torch.bfloat16)
    near, far = (distance(half_reference(path, torch.bfloat16), answers) for path in (directory, other))
    assert far.largest > 3 * near.largest


def test_transformers_reads_the_same_values(tmp_path: Path) -> None:
    """Where compressed-tensors is installed."""
    register()
    directory = mixed(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        model(torch.tensor([prompts()[0]]))  # codes become values
    loaded = model.state_dict()
    for name, value in values(directory).items():
        torch.testing.assert_close(loaded[name], value, atol=1e-6, rtol=1e-6)


def test_the_library_reads_the_config(tmp_path: Path) -> None:
    config = read_document(mixed(tmp_path))["quantization_config"]
    groups = QuantizationConfig.model_validate(config).config_groups
    assert {group.format: (group.weights.num_bits, len(group.targets)) for group in groups.values()} == {
        "pack-quantized": (4, 2 * 4 + 3),
        "int-quantized": (8, 4 + 2 * 3),
    }


DAMAGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "NaN": lambda scales: scales.index_fill(0, torch.tensor([3]), torch.nan),
    "infinite": lambda scales: scales.index_fill(0, torch.tensor([3]), torch.inf),
    "negative": lambda scales: scales.index_fill(0, torch.tensor([3]), -0.01),
    "zero": lambda scales: scales.index_fill(0, torch.tensor([3]), 0.0),
    "truncated": lambda scales: scales[:-1],
    "of another group": lambda scales: torch.cat([scales, scales], 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("module", ["layers.1.self_attn.q_proj", "layers.1.mlp.down_proj"])
def test_damaged_scales_are_refused(tmp_path: Path, damage: str, module: str) -> None:
    """In 4 and in 8 bits. Without our class, vLLM serves the first four."""
    directory = mixed(tmp_path, dtype=torch.bfloat16)
    weights, name = load_file(directory / "model.safetensors"), f"model.{module}.weight_scale"
    weights[name] = DAMAGES[damage](weights[name]).contiguous()
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    said = damage if damage in ("NaN", "infinite", "negative", "zero") else "scales for .* rows of codes"
    with pytest.raises(ValueError, match=f"{module}.* {said}.*: the checkpoint is damaged: export it again"):
        given(directory, dtype="bfloat16")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": {"num_bits": 8}}, r"no CPU kernel for .* in 8 bits, pack-quantized, with float act"),
        ({"weights": {"num_bits": 3}}, r"no CPU kernel for .* in 3 bits"),
        ({"format": "dense"}, r"integer weights in the format `dense`; vLLM knows pack-quantized and"),
    ],
)
def test_formats_without_kernels_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    directory = mixed(tmp_path, dtype=torch.bfloat16)
    config = read_document(directory)
    group = config["quantization_config"]["config_groups"]["group_0"]
    group |= change if "format" in change else {"weights": group["weights"] | change["weights"]}
    write_json(directory / "config.json", config)
    with pytest.raises(ValueError, match=message):
        given(directory, dtype="bfloat16")
