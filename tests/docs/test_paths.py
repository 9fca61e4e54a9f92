"""Files and folders of the repository that a page names are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FOLDERS = "artefact|benchmarks|compressor|demo|deploy|docs|examples|lathe|serving|tests"


def missing(markdown: str) -> list[str]:
    """Returns the paths between backticks that do not exist; patterns and placeholders are no paths."""
    spans = re.findall(r"`([^`\n]+)`", markdown)
    paths = [span for span in spans if re.fullmatch(rf"({FOLDERS})/[\w./-]*", span)]
    return [path for path in paths if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_names_is_there(page: Path) -> None:
    assert missing(page.read_text()) == []


def test_what_is_not_there_is_noticed() -> None:
    assert missing("`compressor/` `serving/nowhere.py` `deploy/*.yaml` `tests/PATH`") == [
        "serving/nowhere.py",
        "tests/PATH",
    ]
