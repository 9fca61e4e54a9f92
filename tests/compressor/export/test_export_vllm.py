"""The export for vLLM: what is written, what is refused. That vLLM serves it is tested in tests/on_vllm."""

from __future__ import annotations

import ast
import json
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from lathe.artefact.errors import UserError
from lathe.artefact.plan import Plan
from lathe.artefact.shipped_files import PLUGIN_FILES
from lathe.artefact.vllm.limits import check_head_size, check_parallel
from lathe.compressor.export import exporters
from lathe.compressor.export.artefact import export_artefact
from lathe.compressor.export.dense import export_dense
from lathe.compressor.export.vllm import check_served
from lathe.compressor.model.checkpoint import Checkpoint
from support.compress_command import Tiny, lathe
from support.tiny_llama import DENSE, PLANS, checkpoint, plan, pruned

PACKAGE = "lathe_vllm_plugin"


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def source(tmp_path: Path) -> Checkpoint:
    return checkpoint(tmp_path / "dense", head_dim=32)


def test_the_plugin_is_an_installable_project_of_our_own_files(tmp_path: Path, source: Checkpoint) -> None:
    exporters.get("vllm").write(tmp_path / "out", pruned(source, PLANS["mixed"]))
    plugin = tmp_path / "out" / "vllm_plugin"
    project = tomllib.loads((plugin / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["packages"] == [PACKAGE]
    assert project["project"]["version"] == version("lathe")
    (target,) = project["project"]["entry-points"]["vllm.general_plugins"].values()
    module, function = target.split(":")
    file = (plugin / module.replace(".", "/")).with_suffix(".py")
    assert function in {node.name for node in ast.parse(file.read_text()).body if hasattr(node, "name")}
    ours = {file.name: file.read_bytes() for file in PLUGIN_FILES}
    written = {file.name: file.read_bytes() for file in (plugin / PACKAGE).iterdir()}
    assert ours.items() < written.items()
    assert written.keys() - ours.keys() == {"__init__.py"}


@pytest.mark.parametrize("file", PLUGIN_FILES, ids=lambda file: file.name)
def test_shipped_files_import_nothing_of_lathe(file: Path) -> None:
    neighbours = {other.stem for other in PLUGIN_FILES}
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.module in neighbours
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [str(node.module)]
        assert not [name for name in names if name.split(".")[0] == "lathe"]


def test_a_checkpoint_is_written_once(tmp_path: Path, source: Checkpoint) -> None:
    job = pruned(source, PLANS["mixed"])
    exporters.get("vllm").write(tmp_path / "alone", job)
    assert (tmp_path / "alone" / "model.safetensors").exists()
    exporters.get("checkpoint").write(tmp_path / "both", job)
    written = (tmp_path / "both" / "model.safetensors").stat().st_mtime_ns
    exporters.get("vllm").write(tmp_path / "both", job)
    assert (tmp_path / "both" / "model.safetensors").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("head_dim", "gpu", "served"),
    [
        (16, False, False),
        (32, False, True),
        (72, False, False),
        (72, True, True),
        (100, True, False),
        (256, True, True),
        (264, True, False),
        (512, True, True),
        (512, False, True),
    ],
)
def test_head_sizes(head_dim: int, gpu: bool, served: bool) -> None:
    if served:
        check_head_size(head_dim, gpu)
        return
    allowed = "multiples of 8 up to 256, and for 512" if gpu else "32, 48, 64, .*, 256, 512"
    with pytest.raises(UserError, match=f"heads of size {head_dim}. It has them for .*{allowed}"):
        check_head_size(head_dim, gpu)


def test_a_model_that_vllm_cannot_serve_leaves_nothing(tmp_path: Path) -> None:
    for changes, message in (({"head_dim": 16}, "heads of size 16"), ({"hidden_act": "gelu"}, "`gelu`")):
        source = checkpoint(tmp_path / "dense", **{"head_dim": 32} | changes)
        with pytest.raises(UserError, match=message):
            check_served(source)
        with pytest.raises(UserError, match=message):
            export_dense(str(source.path), tmp_path / "out", "vllm")
        assert [file.name for file in tmp_path.iterdir()] == ["dense"]


def test_compress_refuses_before_it_calibrates(tiny: Tiny, tmp_path: Path) -> None:
    done = tiny.compress(tmp_path / "out", "--keep", "70%", "--export", "checkpoint,vllm")
    assert done.exit_code == 1
    assert "no CPU attention kernel for heads of size 16. It has them for 32, 48" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("subnet", "devices"),
    [
        (plan(DENSE, DENSE), (1, 2, 4, 8)),
        (plan((4, 2, 96), (0, 0, 40), (2, 1, 34), (8, 4, 0)), (1, 2)),
        (plan((3, 3, 96), DENSE), (1,)),
        (plan((8, 1, 96), (0, 0, 0)), (1, 2, 4, 8)),
        (plan((0, 0, 6), (0, 0, 12)), (1, 2, 3, 6)),
        (plan((6, 2, 96), (0, 0, 0)), (1, 2, 6)),
    ],
)
def test_devices_that_can_share_a_plan(subnet: Plan, devices: tuple[int, ...]) -> None:
    for number in range(1, 10):
        if number in devices:
            check_parallel(subnet, number)
        else:
            with pytest.raises(UserError, match=rf"--tensor-parallel {', '.join(map(str, devices))}\.$"):
                check_parallel(subnet, number)


def test_an_artefact_is_copied_with_its_plugin(tmp_path: Path, source: Checkpoint) -> None:
    export_dense(str(source.path), tmp_path / "artefact", "checkpoint")
    export_artefact(tmp_path / "artefact", tmp_path / "out", "vllm", 2)
    before = {file.name for file in (tmp_path / "artefact").iterdir()}
    assert {file.name for file in (tmp_path / "out").iterdir()} == before | {"vllm_plugin"}
    listed = json.loads((tmp_path / "out" / "manifest.json").read_text())["files"]
    assert f"vllm_plugin/{PACKAGE}/vllm_lathe_llama.py" in listed
    with pytest.raises(UserError, match="exists"):
        export_artefact(tmp_path / "artefact", tmp_path / "out", "vllm")


def test_the_export_command_takes_dense_models_and_artefacts(tmp_path: Path, source: Checkpoint) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert lathe("export", str(source.path), "--to", "vllm", "-o", str(first)).exit_code == 0
    assert lathe("export", str(first), "--to", "vllm", "-o", str(second)).exit_code == 0
    assert (second / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()
    refused = {
        ("--to", "onnx"): "a subnet already, which can only be exported --to gguf or vllm",
        ("--to", "vllm", "--tensor-parallel", "3"): "3 devices cannot share layer 0",
        ("--to", "vllm", "--tensor-parallel", "0"): "not a number of devices",
        ("--to", "onnx", "--tensor-parallel", "2"): "does not go with --to onnx",
    }
    for options, message in refused.items():
        done = lathe("export", str(first), *options, "-o", str(tmp_path / "third"))
        assert (done.exit_code, message in done.stderr) == (1, True), done.stderr
    assert not (tmp_path / "third").exists()
