"""What the README and the pages tell a reader to type is there: commands, their options, targets of make."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from lathe.cli import build

ROOT = Path(__file__).parents[2]
AT_THE_ROOT = sorted(ROOT.glob("*.md"))
PAGES = [*AT_THE_ROOT, *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS: dict[str, Any] = typer.main.get_command(build()).commands  # type: ignore[attr-defined]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def code(markdown: str) -> Iterator[str]:
    """Lines of blocks, continued ones joined and without comments; then what stands between backticks."""
    for block in re.findall(r"```\w*\n(.*?)```", markdown, re.DOTALL):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            yield re.sub(r"\s+#.*", "", line.strip().removeprefix("$ "))
    rest = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    yield from (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", rest))


def unknown(line: str) -> list[str]:
    """What a line of code asks for that is not there. What comes after `--` is for another program."""
    found = []
    for command in re.findall(r"(?:^|&& |\()((?:lathe|compress) .*?)(?= && | -- |$)", line):
        name, *words = command.removeprefix("lathe ").split()
        if name not in COMMANDS:
            found.append(name)
            continue
        options = {option for p in COMMANDS[name].params for option in [*p.opts, *p.secondary_opts]}
        asked = [word.partition("=")[0] for word in words if re.match("--?[a-z]", word)]
        found += [option for option in asked if option not in options | {"--help"}]
    return found + [target for target in re.findall(r"\bmake ([a-z][a-z-]+)", line) if target not in TARGETS]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_and_options_are_known(page: Path) -> None:
    lines = list(code(page.read_text()))
    assert {line: wrong for line in lines if (wrong := unknown(line))} == {}


@pytest.mark.parametrize("page", AT_THE_ROOT, ids=lambda page: page.stem)
def test_links_at_the_root_lead_somewhere(page: Path) -> None:
    """Those of the pages below docs/ are `make docs`'s to check."""
    for target, anchor in re.findall(r"\]\(([^)#:]+)(?:#([^)]+))?\)", page.read_text()):
        assert (ROOT / target).exists(), target
        if not anchor:
            continue
        headings = re.findall(r"^#+ (.*)", (ROOT / target).read_text(), re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
        assert anchor in slugs, f"{target}#{anchor}"


def test_what_is_not_there_is_noticed() -> None:
    assert unknown("lathe serv out") == ["serv"]
    assert unknown("compress MODEL --kep 70% -o out && lathe serve out --prot 1") == ["--kep", "--prot"]
    assert unknown("lathe serve out --engine vllm -- --tensor-parallel-size 2") == []
    assert unknown("make demo && make dem") == ["dem"]
    assert list(code("a `b\nc`\n```\n$ d \\\n  e  # f\n```\n")) == ["d e", "b c"]
