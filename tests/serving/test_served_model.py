from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from lathe.artefact.errors import UserError
from lathe.serving.launch.engines.onnx import check_external_data
from lathe.serving.served_model import open_served_model
from support.tiny_server import CONTEXT, NAME


@pytest.fixture
def copy(artefact_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(artefact_dir, tmp_path / "copy"))


def test_a_dense_artefact_is_described(artefact_dir: Path):
    artefact = open_served_model(artefact_dir)
    assert artefact.eos == {1}
    assert (artefact.context, artefact.vocab_size) == (CONTEXT, 320)
    assert not artefact.compressed
    assert artefact.target_ms is None
    assert artefact.dense_weights == artefact.dense_kv == 1


def test_plan_and_report_tell_what_it_is(copy: Path):
    plan = json.loads((copy / "plan.json").read_text())
    plan["layers"][0]["ffn"] = 32
    (copy / "plan.json").write_text(json.dumps(plan))
    report = {
        "latency": {"target_ms": 30, "metric": "ttft"},
        "weight_bytes": {"dense": 300, "subnet": 200},
        "kv_bytes_per_token": None,
    }
    (copy / "report.json").write_text(json.dumps(report))
    artefact = open_artefact_unverified(copy)
    assert artefact.compressed
    assert (artefact.target_ms, artefact.target_metric) == (30, "ttft")
    assert artefact.tpot_target_ms is None, "it is none per output token"
    assert (artefact.dense_weights, artefact.dense_kv) == (1.5, None)


def test_a_dense_checkpoint_is_exported_under_its_own_name(
    artefact_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    checkpoint = artefact_dir.parents[2] / NAME
    monkeypatch.setenv("LATHE_CACHE", str(artefact_dir.parents[1]))
    artefact = open_served_model(checkpoint)
    assert artefact.path == artefact_dir
    assert artefact.name == NAME
    assert "dense checkpoint" in caplog.text


def test_what_the_export_refuses_is_told(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "abacus"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError):
        open_served_model(tmp_path)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit_manifest(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def apply(copy: Path) -> None:
        manifest = json.loads((copy / "manifest.json").read_text())
        change(manifest)
        (copy / "manifest.json").write_text(json.dumps(manifest))

    return apply


def link_data(copy: Path) -> None:
    data = copy / "onnx/model.onnx.data"
    data.rename(copy / "elsewhere")
    data.symlink_to(copy / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda copy: flip(copy / "onnx/model.onnx"), "hash"),
        (lambda copy: flip(copy / "onnx/model.onnx.data"), "hash"),
        (lambda copy: (copy / "onnx/model.onnx.data").write_bytes(b""), "size"),
        (lambda copy: (copy / "onnx/model.onnx").unlink(), "missing"),
        (link_data, "plain file"),
        (lambda copy: (copy / "onnx/extra").write_text(""), "not listed"),
        (lambda copy: (copy / "manifest.json").write_text("{"), "cannot read"),
        (lambda copy: (copy / "manifest.json").write_text("[" * 10**5), "cannot read"),
        (lambda copy: (copy / "manifest.json").unlink(), "no manifest.json"),
        (edit_manifest(lambda m: m.update(format="other/9")), "manifest"),
        (edit_manifest(lambda m: m["files"].pop("onnx/model.onnx")), "no ONNX export"),
        (edit_manifest(lambda m: m["files"].pop("onnx/model.onnx.data")), "not listed"),
        (edit_manifest(lambda m: m["files"].update({"onnx/model.onnx": 3})), "size"),
        (lambda copy: (copy / "config.json").write_text("[]"), "size"),
        (lambda copy: flip(copy / "tokenizer.json"), "hash"),
        (lambda copy: flip(copy / "plan.json"), "hash"),
        (lambda copy: (copy / "added_tokens.json").write_text("{}"), "not listed"),
        (lambda copy: (copy / "config.json").unlink(), "no config.json"),
        (lambda copy: shutil.rmtree(copy), "not a directory"),
    ],
)
def test_damage_is_refused_in_one_sentence(copy: Path, damage: Callable[[Path], None], words: str):
    damage(copy)
    with pytest.raises(UserError, match=words) as refusal:
        open_served_model(copy)
    assert "\n" not in str(refusal.value)


def test_what_was_broken_before_the_export_is_told(copy: Path):
    (copy / "config.json").write_text("[]")
    with pytest.raises(UserError, match="not a JSON object"):
        open_artefact_unverified(copy)


def test_weights_from_anywhere_else_are_refused(copy: Path):
    graph = copy / "onnx/model.onnx"
    model = onnx.load(graph, load_external_data=False)
    entry = next(e for t in model.graph.initializer for e in t.external_data if e.key == "location")
    entry.value = "../../secret"
    graph.write_bytes(model.SerializeToString())
    artefact = open_artefact_unverified(copy)
    with pytest.raises(UserError, match="secret"):
        check_external_data(artefact)


def open_artefact_unverified(copy: Path):
    from lathe.artefact.manifest import write_manifest

    write_manifest(copy)
    return open_served_model(copy)
