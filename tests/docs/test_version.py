"""The version is written in pyproject.toml; what cannot read it from there agrees with it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_the_images_of_the_overlays_are_of_this_version() -> None:
    files = sorted((ROOT / "deploy/kustomize/overlays").rglob("kustomization.yaml"))
    tags = [tag for file in files for tag in re.findall(r"newTag: (\S+)", file.read_text())]
    assert tags
    assert {tag.rpartition("-")[0] for tag in tags} == {VERSION}


def test_the_page_of_deployment_names_this_version() -> None:
    tags = re.findall(r"lathe:(\d[\w.]*)-(?:cpu|gpu)", (ROOT / "docs/deploy.md").read_text())
    assert set(tags) <= {VERSION}


def test_the_changelog_begins_with_what_is_not_released_yet() -> None:
    """Or with this version, in the commit that is tagged."""
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] in ("Unreleased", VERSION)
    assert len(headings) == len(set(headings))


def test_nothing_in_the_packages_repeats_the_version() -> None:
    files = [
        file
        for name in ("artefact", "compressor", "lathe", "serving")
        for file in (ROOT / name).rglob("*.py")
    ]
    assert files
    assert [str(file) for file in files if f'"{VERSION}"' in file.read_text()] == []
