"""The tutorial: its commands, run in a shell as a reader types them, print what the page says."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

from benchmarks.tutorial.document import TUTORIAL, Step, matches, read
from benchmarks.tutorial.session import MismatchError, Session, environment

ROOT = Path(__file__).parents[2]
PORT = "8000"


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """In a folder with the repository's demo/ and this environment's commands, as if installed."""
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = {"PATH": path, "PYTHONPATH": str(ROOT), "LATHE_CACHE": str(tmp_path / "cache")}
    with Session(tmp_path, environment(**variables)) as session:
        yield session


@pytest.mark.slow
def test_the_tutorial_does_what_it_says(session: Session, tmp_path: Path) -> None:
    """All but the installation, which `make cold-start` runs."""
    port = free_port()
    steps = read(TUTORIAL.read_text().replace(PORT, port))
    for section, group in groupby(steps, key=lambda step: step.section):
        for step in group if section != "Install" else ():
            session.run(step)
        session.end_servers()
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["met"]
    assert report["latency"]["speedup"] > 1.1
    systems = json.loads((tmp_path / "loadtest.json").read_text())["systems"]
    assert systems.keys() == {"dense", "subnet"}
    assert (tmp_path / "loadtest.html").stat().st_size > 1000


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_a_page_is_read_as_commands_and_their_output() -> None:
    page = "## One\n```console\n$ a \\\n  b\nx\ny\n$ c\n```\n```\n$ no\n```\n## Two\n```console\n$ d\n```\n"
    assert read(page) == [Step("One", "a \\\n  b", "x\ny"), Step("One", "c"), Step("Two", "d")]


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("took 1.5 s", "took 12 s", True),
        ("took 1.5 s", "took 1.5 ms", False),
        ("│ a  │ 3 ██░ │", "│ a │ 4,000.5 █░░░ │", True),
        ("change -3 %", "change +4 %", True),
        ('{..., "b": 2}', '{"a": 1, "b": 4}', True),
        ("id-...", "id-12ab", True),
        ("begin\n...\nend", "begin\na\nb\nend", True),
        ("begin\n...\nend", "begin\na\nb", False),
        ('{"id": "..."}', '{"id": "x-1"}', True),
    ],
)
def test_numbers_may_differ_and_words_may_not(expected: str, printed: str, same: bool) -> None:
    assert matches(expected, printed) == same


def test_a_shell_remembers_and_notices(session: Session) -> None:
    session.run(Step("", "cd demo && word=kept"))
    assert session.run(Step("", "echo $word; ls", "kept\n...model...")).startswith("kept")
    assert session.run(Step("", "printf 'no end of line'")) == "no end of line"
    for step in (Step("", "false"), Step("", "echo 1 cat", "1 dog")):
        with pytest.raises(MismatchError):
            session.run(step)


def test_a_command_without_end_is_ended(tmp_path: Path) -> None:
    told = pytest.raises(MismatchError, match="ended")
    with Session(tmp_path, environment(), limit_s=0.5) as session, told:
        session.run(Step("", "sleep 600"))


def test_a_server_that_does_not_start_is_noticed(session: Session) -> None:
    with pytest.raises(MismatchError, match="nowhere"):
        session.run(Step("", "lathe serve nowhere"))


def test_every_section_of_the_tutorial_is_run() -> None:
    sections = {step.section for step in read(TUTORIAL.read_text())}
    assert len(sections) == TUTORIAL.read_text().count("\n## ") - 1  # the last one points elsewhere
