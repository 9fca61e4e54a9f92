"""The page: a head with its style, the parts of one kind of load test, the definitions of the words."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lathe.serving.loadtest import document
from lathe.serving.loadtest import find_capacity as capacity
from lathe.serving.loadtest.document import write_text
from lathe.serving.loadtest.page import levels, rounds
from lathe.serving.loadtest.page.svg import Plot

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --soft: #57606a; --rule: #d0d7de;
  --s0: #0072b2; --s1: #d55e00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --paper: #0d1117; --soft: #a3adb8; --rule: #3a424c; --s0: #56b4e9; --s1: #e69f00; }
}
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.soft, figcaption, dd { color: var(--soft); }
.answer { font-size: 1.1rem; font-weight: 600; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--rule); text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
tbody th { font-weight: 400; } caption { text-align: left; font-weight: 600; padding-top: 1rem; }
.plots { display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
figure { margin: 0; max-width: 34rem; } svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font-size: 11px; }
.rule { stroke: var(--rule); } .limit { stroke: var(--ink); stroke-dasharray: 2 3; stroke-width: 1.5; }
.line { fill: none; stroke-width: 2; } .line.s1 { stroke-dasharray: 6 3; } .bar { stroke-width: 1.5; }
.s0 { stroke: var(--s0); } .s1 { stroke: var(--s1); }
.mark { stroke: none; fill-opacity: .8; } .mark.s0 { fill: var(--s0); } .mark.s1 { fill: var(--s1); }
.key { display: inline-flex; align-items: center; gap: .4rem; margin-right: 1.5rem; }
.key svg { width: 2.25rem; flex: none; }
pre { overflow-x: auto; padding: .75rem; border: 1px solid var(--rule); border-radius: .4rem; }
dt { font-weight: 600; } dd { margin: 0 0 .5rem 0; }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
BODIES: dict[str, Callable[[Mapping[str, Any]], Sequence[str | Plot]]] = {
    document.FORMAT: rounds.body,
    capacity.FORMAT: levels.body,
}
"""The parts of the page, by kind of document: HTML, and plots, which are laid out side by side."""


def page(whole: Mapping[str, Any]) -> str:
    """Returns the page of a load test's document."""
    names = [f"{name} ({system['model']})" for name, system in whole["systems"].items()]
    title = f"Load test: {' and '.join(names)}"
    body = [
        f"<h1>{escape(title)}</h1>",
        *_parts(BODIES[whole["format"]](whole), list(whole["systems"])),
        "<h2>How it was made</h2>",
        f"<pre>{escape(shlex.join(whole['command']))}</pre>",
        f'<p class="soft">{escape(_machine(whole["machine"]))}</p>',
        "<h2>What the words mean</h2>",
        f"<dl>{''.join(_definition(*pair) for pair in whole['definitions'].items())}</dl>",
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<style>{STYLE}</style></head>\n<body><main>\n" + "\n".join(body) + "\n</main></body></html>\n"
    )


def write_page(whole: Mapping[str, Any], path: Path) -> None:
    """Writes the page in one step.

    Raises:
        UserError: the file cannot be written.
    """
    write_text(page(whole), path)


def _parts(parts: Iterable[str | Plot], names: Sequence[str]) -> list[str]:
    found: list[str] = []
    figures: list[str] = []
    for part in [*parts, ""]:
        if isinstance(part, Plot):
            figures.append(f"<figure>{part.svg()}<figcaption>{escape(part.title)}</figcaption></figure>")
            continue
        if figures:
            found += [_legend(names), f'<div class="plots">{"".join(figures)}</div>']
            figures = []
        found.append(part)
    return found


def _legend(names: Sequence[str]) -> str:
    """Returns the line and mark of each system, drawn as in the plots."""
    marks = ('<circle class="mark s0" cx="18" cy="6" r="3.4"/>', '<path class="mark s1" d="M15 3h6v6h-6z"/>')
    keys = (
        f'<span class="key"><svg viewBox="0 0 36 12" aria-hidden="true"><path class="line s{i}" d="M0 6H36"/>'
        f"{marks[i]}</svg>{escape(name)}</span>"
        for i, name in enumerate(names)
    )
    return f"<p>{''.join(keys)}</p>"


def _definition(name: str, text: str) -> str:
    return f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>"


def _machine(machine: Mapping[str, Any]) -> str:
    gpus = f", {', '.join(machine['gpus'])}" if machine["gpus"] else ""
    load = machine["load_average"][0]
    return (
        f"{machine['cpu']}, {machine['usable_cpus']} of {machine['cpus']} processors usable{gpus}, "
        f"{machine['memory_bytes'] / 2**30:.1f} GiB, {machine['platform']}, Python {machine['python']}, "
        f"load average {load:g} at the end"
    )
