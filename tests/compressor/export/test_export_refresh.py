"""`lathe refresh`: an artefact of another version gets today's model files, and keeps everything else."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from lathe.artefact.errors import UserError
from lathe.artefact.manifest import listed_files, verify_checkpoint, write_manifest
from lathe.artefact.modeling.configuration_lathe_llama import check_version
from lathe.artefact.shipped_files import shipped_files, stale_files, warn_if_stale
from lathe.compressor.export.checkpoint import export_checkpoint
from lathe.compressor.export.refresh import plan_refresh, refresh
from lathe.compressor.export.vllm import write_plugin
from support.compress_command import lathe
from support.tiny_llama import PLANS, checkpoint, pruned

MODELING, PLUGIN = "modeling_lathe_llama.py", "vllm_plugin/lathe_vllm_plugin/vllm_lathe_llama.py"
OLD = b'"""Of a version before this one."""\n'


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact of today, with vLLM's plugin and a manifest."""
    place = tmp_path_factory.mktemp("artefact")
    export_checkpoint(place / "out", pruned(checkpoint(place / "dense"), PLANS["mixed"]))
    write_plugin(place / "out" / "vllm_plugin")
    write_manifest(place / "out")
    return place / "out"


@pytest.fixture
def old(written: Path, tmp_path: Path) -> Path:
    """As another version wrote it: other model files, which its manifest lists."""
    shutil.copytree(written, tmp_path / "out")
    for name in (MODELING, PLUGIN):
        (tmp_path / "out" / name).write_bytes(OLD)
    write_manifest(tmp_path / "out")
    return tmp_path / "out"


def contents(directory: Path) -> dict[str, bytes]:
    return {str(f.relative_to(directory)): f.read_bytes() for f in directory.rglob("*") if f.is_file()}


def test_c16_a_refreshed_artefact_is_what_would_be_written_today(old: Path, written: Path) -> None:
    done = lathe("refresh", str(old), "--json")
    assert done.exit_code == 0
    assert sorted(json.loads(done.stdout)["replaced"]) == sorted([MODELING, PLUGIN])
    assert contents(old) == contents(written)
    verify_checkpoint(old, listed_files(old))


def test_a_dry_run_and_a_second_run_change_nothing(old: Path) -> None:
    before = contents(old)
    assert "would replace" in lathe("refresh", str(old), "--dry-run").stdout
    assert contents(old) == before
    refresh(old)
    assert plan_refresh(old).to_json() == {"replaced": [], "edited": [], "manifest": False}
    assert "are those of this Lathe" in lathe("refresh", str(old)).stdout


def test_files_that_were_damaged_stay_known_as_damaged(old: Path) -> None:
    (old / "config.json").write_text((old / "config.json").read_text() + "\n")
    refresh(old)
    with pytest.raises(UserError, match="config.json has not the size"):
        verify_checkpoint(old, listed_files(old))


def test_an_interrupted_refresh_is_finished_by_the_next(old: Path, written: Path) -> None:
    (old / MODELING).write_bytes(shipped_files(old)[MODELING])  # replaced, and the manifest not yet
    assert lathe("refresh", str(old)).exit_code == 0
    assert contents(old) == contents(written)


def test_what_somebody_edited_is_replaced_only_when_asked(old: Path, written: Path) -> None:
    (old / MODELING).write_bytes(OLD + b"# mine\n")
    refused = lathe("refresh", str(old))
    assert refused.exit_code == 1
    assert MODELING in refused.stderr
    assert "--overwrite" in refused.stderr
    assert (old / MODELING).read_bytes() == OLD + b"# mine\n"
    assert lathe("refresh", str(old), "--overwrite").exit_code == 0
    assert contents(old) == contents(written)


def test_a_copy_without_a_manifest_gets_none(old: Path) -> None:
    (old / "manifest.json").unlink()
    refresh(old)
    assert not stale_files(old)
    assert not (old / "manifest.json").exists()


def test_what_is_no_artefact_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path / "dense")
    for name, words in (("dense", "holds no checkpoint of ours"), ("nothing", "there is no directory")):
        refused = lathe("refresh", str(tmp_path / name))
        assert refused.exit_code == 1
        assert words in refused.stderr


def test_a_manifest_of_another_format_is_refused(old: Path) -> None:
    manifest = json.loads((old / "manifest.json").read_text())
    (old / "manifest.json").write_text(json.dumps(manifest | {"format": "lathe-artefact/2"}))
    before = contents(old)
    refused = lathe("refresh", str(old))
    assert refused.exit_code == 1
    assert "has the format 'lathe-artefact/2'" in refused.stderr
    assert contents(old) == before


def test_c16_tools_say_that_an_artefact_is_old(
    old: Path, written: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "lathe"):
        warn_if_stale(written)
        assert not caplog.records
        warn_if_stale(old)
    assert f"lathe refresh {old}" in caplog.text


@pytest.mark.parametrize("version", ["4.57.6", "5.9.1", "5.16.0.dev0"])
def test_c16_a_transformers_that_is_too_old_is_one_sentence(version: str) -> None:
    with pytest.raises(ImportError, match=f"needs transformers 5.17 or newer; here is {version}"):
        check_version(version)
    check_version("5.17.0")
    check_version("6.0.0.dev0")
