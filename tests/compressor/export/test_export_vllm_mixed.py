"""The export for vLLM with bits by block: its config, its tensors, and the plans that it refuses."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lathe.artefact import plan as plan_module
from lathe.artefact.atomic_files import write_json
from lathe.artefact.errors import UserError
from lathe.artefact.manifest import listed_files, verify_checkpoint
from lathe.artefact.plan import LayerShape, Plan
from lathe.compressor.export.base import Export
from lathe.compressor.export.checkpoint import export_checkpoint
from lathe.compressor.export.compressed_tensors import SCHEME_OF, SCHEMES, mixed_config
from lathe.compressor.export.quantized import export_quantized, write_quantized
from lathe.compressor.export.quantized_tensors import QuantizedTensors
from lathe.compressor.export.vllm_mixed import check_mixed, export_mixed
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.rounding import QuantizedMatrix
from support.compress_command import lathe
from support.tiny_llama import checkpoint, pruned

UNEVEN = Plan(
    (
        LayerShape(0, 0, 33, ffn_bits=8),
        LayerShape(3, 3, 64, attention_bits=4, ffn_bits=8),
        LayerShape(8, 4, 32, attention_bits=8, ffn_bits=4),
        LayerShape(4, 2, 17, attention_bits=4),
    )
)
ATTENTION = [f"self_attn.{name}_proj" for name in "qkvo"]
FFN = [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
FOUR = [
    f"model.layers.{i}.{name}" for i, block in ((1, ATTENTION), (2, FFN), (3, ATTENTION)) for name in block
]
EIGHT = [f"model.layers.{i}.{name}" for i, block in ((0, FFN), (1, FFN), (2, ATTENTION)) for name in block]
AS_THEY_ARE = [f"model.layers.3.{name}" for name in FFN]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def source(tmp_path: Path) -> Checkpoint:
    return checkpoint(tmp_path / "dense", head_dim=32)


def artefact(directory: Path, source: Checkpoint, subnet: Plan = UNEVEN) -> Path:
    export_checkpoint(directory, pruned(source, subnet))
    write_json(directory / "plan.json", subnet.to_json())
    write_json(directory / "report.json", {"format": "lathe-report/1", "layers": [], "head_bits": 8})
    return directory


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def test_every_block_is_stored_as_its_bits_say(tmp_path: Path, source: Checkpoint) -> None:
    given = artefact(tmp_path / "artefact", source)
    export_mixed(str(given), tmp_path / "out")
    weights, before = (load_file(path / "model.safetensors") for path in (tmp_path / "out", given))
    stored = {name.rpartition(".")[0]: "four" for name in weights if name.endswith("_packed")}
    stored |= {
        name.rpartition(".")[0]: "eight" for name, tensor in weights.items() if tensor.dtype == torch.int8
    }
    assert sorted(stored) == sorted([*FOUR, *EIGHT])
    assert Counter(stored.values()) == {"four": len(FOUR), "eight": len(EIGHT)}
    for name, tensor in before.items():
        if name.rpartition(".")[0] not in stored:
            assert torch.equal(weights[name], tensor)
    assert Plan.load(tmp_path / "out" / "plan.json") == UNEVEN


def test_a_block_has_the_codes_of_its_scheme_alone(tmp_path: Path, source: Checkpoint) -> None:
    """The same bytes as a model in one format: rounding is one."""
    even = Plan(tuple(LayerShape(8, 4, 96, 0, a, f) for a, f in ((4, 8), (8, 4), (0, 4), (8, 0))))
    given = artefact(tmp_path / "artefact", source, even)
    export_mixed(str(given), tmp_path / "mixed")
    mixed = load_file(tmp_path / "mixed" / "model.safetensors")
    for name, scheme in SCHEMES.items():
        export_quantized(str(given), tmp_path / name, scheme=name)
        alone = load_file(tmp_path / name / "model.safetensors")
        for i, layer in enumerate(even):
            for kind, modules in (("attention", ATTENTION), ("ffn", FFN)):
                if layer.bits(kind) == scheme.bits:
                    own = [n for n in alone if any(f"layers.{i}.{m}." in n for m in modules)]
                    assert own
                    assert all(torch.equal(alone[n], mixed[n]) for n in own)


def test_the_config_names_the_modules_of_each_scheme(tmp_path: Path, source: Checkpoint) -> None:
    export_mixed(str(artefact(tmp_path / "artefact", source)), tmp_path / "out")
    config = read(tmp_path / "out" / "config.json")["quantization_config"]
    assert config["format"] == "mixed-precision"
    four, eight = config["config_groups"].values()
    assert (four["format"], eight["format"]) == ("pack-quantized", "int-quantized")
    assert (sorted(four["targets"]), sorted(eight["targets"])) == (sorted(FOUR), sorted(EIGHT))
    assert sorted(config["ignore"]) == sorted([*AS_THEY_ARE, "lm_head"])
    for group, scheme in ((four, SCHEMES["w4a16"]), (eight, SCHEMES["w8a8"])):
        alone = scheme.config()["config_groups"]["group_0"]
        assert {k: v for k, v in group.items() if k not in ("format", "targets")} == {
            k: v for k, v in alone.items() if k != "targets"
        }


def test_formats_that_no_block_has_are_not_in_the_config() -> None:
    config = mixed_config({"a.weight": None, "b.weight": SCHEMES["w8a8"]})
    assert [group["targets"] for group in config["config_groups"].values()] == [["b"]]
    assert config["ignore"] == ["a", "lm_head"]


def test_the_summary_and_the_report(tmp_path: Path, source: Checkpoint) -> None:
    given = artefact(tmp_path / "artefact", source)
    summary = export_mixed(str(given), tmp_path / "out")
    weights, before = (load_file(path / "model.safetensors") for path in (tmp_path / "out", given))
    assert summary["scheme"] == "mixed"
    counts = {name: row["matrices"] for name, row in summary["formats"].items()}
    assert counts == {"float": len(AS_THEY_ARE), "w4a16": len(FOUR), "w8a8": len(EIGHT)}
    assert summary["weight_bytes"] == {
        when: sum(tensor.nbytes for tensor in stored.values())
        for when, stored in (("before", before), ("after", weights))
    }
    four, eight = (summary["formats"][name]["relative_error"] for name in ("w4a16", "w8a8"))
    assert eight["max"] < 0.02 < four["median"] <= four["max"] == summary["relative_error"]["max"]
    report = read(tmp_path / "out" / "report.json")
    assert report["quantization"]["formats"] == summary["formats"]
    assert report["layers"] == UNEVEN.to_json()["layers"]
    assert "head_bits" not in report


def test_a_dense_model_with_a_plan_by_the_command(tmp_path: Path, source: Checkpoint) -> None:
    dense = source.shape.dense_plan
    plan = dense.replace(1, replace(dense[1], attention_bits=4)).replace(2, replace(dense[2], ffn_bits=8))
    write_json(tmp_path / "bits.json", plan.to_json())
    command = ("export", str(source.path), "--to", "vllm", "--quantize", "mixed", "-o", str(tmp_path / "out"))
    done = lathe(*command, "--plan", str(tmp_path / "bits.json"))
    assert done.exit_code == 0, done.output
    assert "written, mixed, weights" in done.stdout
    assert Plan.load(tmp_path / "out" / "plan.json") == plan


def test_a_plan_beside_the_artefacts_own(tmp_path: Path, source: Checkpoint) -> None:
    given = artefact(tmp_path / "artefact", source, replace(UNEVEN, head_bits=8))
    write_json(tmp_path / "bits.json", UNEVEN.in_bits(8, 0).to_json())
    export_mixed(str(given), tmp_path / "out", plan=tmp_path / "bits.json")
    assert Plan.load(tmp_path / "out" / "plan.json") == UNEVEN.in_bits(8, 0)
    assert Plan.load(given / "plan.json").head_bits == 8


def test_an_export_after_one_that_failed_is_the_same(
    tmp_path: Path, source: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = str(artefact(tmp_path / "artefact", source))
    export_mixed(given, tmp_path / "one")
    with monkeypatch.context() as patched:
        patched.setattr(QuantizedTensors, "summary", lambda _self: 1 / 0)  # the weights are written by then
        with pytest.raises(ZeroDivisionError):
            export_mixed(given, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    export_mixed(given, tmp_path / "other")
    one, other = (read(tmp_path / name / "manifest.json") for name in ("one", "other"))
    assert one == other


def test_codes_of_a_run_are_stored_as_they_are(tmp_path: Path, source: Checkpoint) -> None:
    """What rounding on text made of a matrix takes the place of rounding to nearest, and so do its biases."""
    job, found = pruned(source, UNEVEN), dict[str, QuantizedMatrix]()
    norm = torch.full((64,), 3.0)

    def rounded(name: str) -> torch.Tensor | QuantizedMatrix | None:
        if name == "model.layers.3.input_layernorm.weight":
            return norm
        if not name.startswith("model.layers.1.self_attn.q_proj"):
            return None
        nearest = SCHEMES["w4a16"].round(job.tensor(name))
        found[name] = replace(nearest, codes=-nearest.codes.clamp(-7, 7), error=0.25)
        return found[name]

    tensors = QuantizedTensors(replace(job, rounded=rounded), SCHEME_OF)
    stored = {name: tensors(name) for name in tensors.entries}
    (name,) = found
    nearest = QuantizedTensors(job, SCHEME_OF)
    plain = {entry: nearest(entry) for entry in nearest.entries}
    assert not torch.equal(stored[f"{name}_packed"], plain[f"{name}_packed"])
    differing = {entry for entry in stored if not torch.equal(stored[entry], plain[entry])}
    assert differing == {f"{name}_packed", "model.layers.3.input_layernorm.weight"}
    assert tensors.summary()["formats"]["w4a16"]["relative_error"]["max"] == 0.25


def test_scales_too_small_for_the_type_are_not_stored_as_zero(tmp_path: Path) -> None:
    """A zero scale is a sign of damage where vLLM loads it."""
    source = checkpoint(tmp_path / "dense", head_dim=32, dtype=torch.float16)
    job = Export(source, source.shape.dense_plan.in_bits(4, 0), lambda name: source.tensor(name) * 1e-7)
    write_quantized(job, tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    scales = [tensor for name, tensor in weights.items() if name.endswith("_scale")]
    assert all(bool((tensor > 0).all()) for tensor in scales)
    zero = 0x88888888 - 2**32  # every code of a word
    assert any(bool((tensor == zero).any()) for name, tensor in weights.items() if name.endswith("_packed"))


def at(index: int, layer: LayerShape) -> Plan:
    return UNEVEN.replace(index, layer)


@pytest.mark.parametrize(
    ("plan", "devices", "message"),
    [
        (UNEVEN.unrounded, 1, "the plan rounds no weights. Give a --plan with bits"),
        (
            replace(UNEVEN, head_bits=8),
            1,
            "for another engine: it has embedding and head in 8 bits, and vLLM",
        ),
        (
            at(3, LayerShape(4, 2, 17, ffn_bits=4)),
            1,
            "4-bit kernel for the ffn block of layer 3 with 17 chan",
        ),
        (
            at(2, LayerShape(8, 4, 32, ffn_bits=4)),
            2,
            "2 devices cannot share layer 0 .* can be served with --tensor-parallel 1",
        ),
    ],
)
def test_plans_that_vllm_cannot_serve(source: Checkpoint, plan: Plan, devices: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_mixed(source, plan, devices)


def test_groups_lie_on_one_device(source: Checkpoint) -> None:
    layers = (LayerShape(2, 2, 96, ffn_bits=8), LayerShape(2, 2, 96, attention_bits=4, ffn_bits=4))
    check_mixed(source, Plan(layers[:1]), 2)
    with pytest.raises(UserError, match="ffn block of layer 1 with 96 channels on each of 2 devices"):
        check_mixed(source, Plan(layers), 2)


def test_bits_of_another_engine(source: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans may come to know bits that vLLM does not."""
    monkeypatch.setattr(plan_module, "WEIGHT_BITS", (0, 8, 4, 2))
    with pytest.raises(UserError, match="attention block of layer 1 in 2 bits, for which vLLM has no kernel"):
        check_mixed(source, at(1, LayerShape(3, 3, 64, attention_bits=2)))


def test_a_hidden_size_that_four_bits_do_not_take_is_taken_by_eight(tmp_path: Path) -> None:
    narrow = checkpoint(tmp_path / "narrow", head_dim=32, hidden_size=72)
    check_mixed(narrow, narrow.shape.dense_plan.in_bits(8, 0))
    with pytest.raises(UserError, match="no 4-bit kernels for a hidden size of 72"):
        check_mixed(narrow, narrow.shape.dense_plan.in_bits(4, 0))


def test_refusals_of_the_command(tmp_path: Path, source: Checkpoint) -> None:
    """One sentence, and not a byte written."""
    given = str(artefact(tmp_path / "artefact", source))
    plans = {
        "short": Plan(UNEVEN.layers[:2]),
        "other": at(1, LayerShape(4, 2, 64, attention_bits=4)),
        "three": None,
        "bits": UNEVEN,
    }
    for name, plan in plans.items():
        write_json(tmp_path / name, plan.to_json() if plan else UNEVEN.to_json())
    document = read(tmp_path / "three")
    document["layers"][1]["attention_bits"] = 3
    write_json(tmp_path / "three", document)
    before = {file.name for file in tmp_path.iterdir()}
    to_mixed = ("--to", "vllm", "--quantize", "mixed")
    refused = {
        (str(source.path), *to_mixed): "no plan says the bits of",
        (given, *to_mixed, "--plan", str(tmp_path / "short")): "short has 2 layers; ",
        (given, *to_mixed, "--plan", str(tmp_path / "other")): "layer 1 has 4 query heads, 2 KV heads, 64 ch",
        (given, *to_mixed, "--plan", str(tmp_path / "three")): "attention block cannot have 3 bits",
        (given, *to_mixed, "--plan", str(tmp_path / "none")): "cannot read the plan",
        (
            given,
            "--to",
            "vllm",
            "--plan",
            str(tmp_path / "bits"),
        ): "--plan says bits, and nothing is quantized",
        (given, "--to", "vllm", "--quantize", "w8a8", "--plan", str(tmp_path / "bits")): "the same bits",
        (given, "--quantize", "int8", "--plan", str(tmp_path / "bits")): "--quantize int8 gives all blocks",
        (given, "--to", "onnx", "--quantize", "mixed"): "no quantized export `onnx-mixed`",
    }
    for arguments, message in refused.items():
        result = lathe("export", *arguments, "-o", str(tmp_path / "out"))
        assert result.exit_code == 1
        assert message in result.stderr
        assert len(result.stderr.strip().splitlines()[-1:]) == 1
    assert {file.name for file in tmp_path.iterdir()} == before


def test_what_is_quantized_is_not_quantized_again(tmp_path: Path, source: Checkpoint) -> None:
    export_mixed(str(artefact(tmp_path / "artefact", source)), tmp_path / "done")
    with pytest.raises(UserError, match="is a quantized checkpoint"):
        export_mixed(str(tmp_path / "done"), tmp_path / "again")
    with pytest.raises(UserError, match="exists"):
        export_mixed(str(tmp_path / "artefact"), tmp_path / "done")


@pytest.mark.parametrize("damage", ["changed", "truncated"])
def test_a_damaged_file_is_found_before_it_is_served(tmp_path: Path, source: Checkpoint, damage: str) -> None:
    """By `lathe serve`, which checks all files; scales that vLLM alone loads are checked by our class."""
    out = tmp_path / "out"
    export_mixed(str(artefact(tmp_path / "artefact", source)), out)
    verify_checkpoint(out, listed_files(out))
    file = out / "model.safetensors"
    if damage == "changed":
        weights = load_file(file)
        weights["model.layers.1.self_attn.q_proj.weight_scale"][0] = torch.nan
        save_file(weights, file, {"format": "pt"})
    else:
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        verify_checkpoint(out, listed_files(out))
