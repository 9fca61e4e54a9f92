"""The reference page says what the commands say."""

from __future__ import annotations

import typer

from docs.tools import cli
from lathe.cli import COMMANDS, build


def test_the_page_is_not_stale() -> None:
    assert cli.PAGE.read_text() == cli.page(), "run `make docs`"


def test_every_command_and_option_is_on_it() -> None:
    text = cli.page()
    for name in COMMANDS:
        command = typer.main.get_command(build()).commands[name]  # type: ignore[attr-defined]
        section = text.split(f"## lathe {name}\n")[1].split("\n## ")[0]
        shown = [name for p in command.params if p.name not in cli.HIDDEN for name in p.opts if "--" in name]
        assert all(f"`{name}`" in section for name in shown)
        assert "```" in section or name in ("inspect", "families")
