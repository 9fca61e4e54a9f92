"""The page of the command line, from the commands themselves: `python docs/tools/cli.py` writes it.

`make docs` writes it before it builds, and a test compares it with the commands, so that it is never stale.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import typer

PAGE = Path(__file__).parents[1] / "reference/cli.md"
HEAD = """# The command line

Written from the commands themselves (`make docs`). `compress` is short for `lathe compress`. Every command
ends with status 0 when done and 1 when refused, with one line that says what to do (2: there is no such
option); `compress` with 3 when the artefact was written but measured slower than its target. `--debug`
shows the traceback as well.
"""
HIDDEN = {"help", "debug"}
PROGRAMS = ("lathe ", "compress ")


def page() -> str:
    """Markdown of every command: what it does, its examples, its arguments and options."""
    from lathe.cli import build

    group: Any = typer.main.get_command(build())
    parts = (part for name, command in group.commands.items() for part in _command(name, command))
    return "\n".join([HEAD, *parts])


def _command(name: str, command: Any) -> Iterator[str]:
    yield f"## lathe {name}\n"
    yield _prose(command.help or "")
    shown = sorted((p for p in command.params if p.name not in HIDDEN), key=_is_option)
    for panel, parameters in _by_panel(shown).items():
        yield f"| {panel} | default | |\n|---|---|---|"
        for parameter in parameters:
            yield f"| {_names(parameter)} | {_default(parameter)} | {_cell(_help(parameter))} |"
        yield ""


def _by_panel(parameters: Iterable[Any]) -> dict[str, list[Any]]:
    """As `--help` groups them."""
    found: dict[str, list[Any]] = {}
    for parameter in parameters:
        found.setdefault(getattr(parameter, "rich_help_panel", None) or "", []).append(parameter)
    return found


def _is_option(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "option")


def _prose(text: str) -> str:
    """Paragraphs as they are; examples, which are indented or marked as not to be wrapped, as code."""
    text = re.sub(r"\n\n(?=  )|\x08\n|Examples:\n", "\n", text)
    lines = re.sub(r"\n{3,}", "\n\n", text).splitlines()
    found = ""
    for example, group in groupby(lines, key=lambda line: line.startswith(("  ", *PROGRAMS))):
        block = "\n".join(line.strip() for line in group if line.strip() or not example)
        found += f"```\n{block}\n```\n" if example else _escaped(block) + "\n"
    return found


def _names(parameter: Any) -> str:
    if not _is_option(parameter):
        return f"`{parameter.metavar or (parameter.name or '').upper()}`"
    names = [*parameter.opts, *parameter.secondary_opts]
    return ", ".join(f"`{name}`" for name in names)


def _help(parameter: Any) -> str:
    variable = getattr(parameter, "envvar", None)
    return _unescaped(parameter.help) + (f" In the environment: `{variable}`." if variable else "")


def _default(parameter: Any) -> str:
    """Returns the default, or what stands for one."""
    if parameter.required:
        return "required"
    if isinstance(parameter.show_default, str):
        return _cell(_unescaped(parameter.show_default))
    if getattr(parameter, "is_flag", False) and not parameter.default:
        return ""
    value = parameter.default
    return "" if value in (None, "", []) or callable(value) else f"`{_cell(str(value))}`"


def _unescaped(text: str) -> str:
    """Returns help text as it is shown: typer's markup has a backslash before a bracket."""
    return text.replace("\\[", "[")


def _cell(text: str) -> str:
    return _escaped(" ".join(text.split())).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Angle brackets outside of code are no HTML."""
    return re.sub(r"`[^`]*`|<", lambda found: "&lt;" if found.group() == "<" else found.group(), text)


def main() -> int:
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
