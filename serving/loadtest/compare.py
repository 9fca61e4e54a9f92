"""The two load tests: one system, or dense and subnet in alternating rounds."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from compressor.errors import UserError

from .client import Target, open_client
from .document import document, system_json
from .drive import drive
from .load import Load
from .measure import Round
from .memory import Memory, watched
from .probe import reach, token_counter
from .progress import Quiet
from .prompts import Prompts, file_prompts, fitted_prompts
from .servers import SERVE, served

DEFAULT_PROMPT_TOKENS = 128


@dataclass(frozen=True)
class PromptChoice:
    """Prompts of `tokens` tokens from a word list, or those of `file`; not both."""

    tokens: int | None = None
    file: Path | None = None

    def __post_init__(self) -> None:
        if self.tokens is not None and self.file is not None:
            raise UserError(
                "The prompts come from a file or have a length", "Drop --prompts or --prompt-tokens."
            )
        if self.tokens is not None and self.tokens < 1:
            raise UserError(f"--prompt-tokens is {self.tokens}", "It must be at least 1.")

    def as_json(self) -> dict[str, Any]:
        if self.file is not None:
            return {"prompts": str(self.file)}
        return {"prompt_tokens": self.tokens or DEFAULT_PROMPT_TOKENS}


@dataclass(frozen=True)
class Serving:
    """How directories are served: the command, what is added to it, and how long starting may take."""

    command: Sequence[str] = SERVE
    extra: Sequence[str] = ()
    ready_s: float = 600.0


@dataclass
class _System:
    """A system under test and what was seen of it."""

    url: str
    model: str | None
    pid: int | None = None
    rounds: list[Round] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)
    target: Target = field(default_factory=lambda: Target("", ""))


def run(
    target: str | Path,
    load: Load,
    *,
    prompts: PromptChoice | None = None,
    rounds: int = 1,
    model: str | None = None,
    api_key: str | None = None,
    serving: Serving | None = None,
    progress: Quiet | None = None,
) -> dict[str, Any]:
    """Load one system, a URL or a directory (served for the time of the test).

    Returns:
        The `lathe-loadtest/1` document; its only system is called "server".

    Raises:
        UserError: if the system cannot be reached or started, or the settings make no sense.
    """
    return _test({"server": target}, load, prompts, rounds, model, api_key, serving, progress)


def compare(
    subnet: str | Path,
    dense: str | Path,
    load: Load,
    *,
    prompts: PromptChoice | None = None,
    rounds: int = 3,
    api_key: str | None = None,
    serving: Serving | None = None,
    progress: Quiet | None = None,
) -> dict[str, Any]:
    """Load two systems, each a directory or a URL, in pairs of rounds: dense first, then subnet
    first, and so on, so that a drift of the machine falls on both.

    Both stay up; only one is under load at a time. In a pair both get the same prompts and arrivals.

    Returns:
        The `lathe-loadtest/1` document with the systems "dense" and "subnet" and their ratios.

    Raises:
        UserError: if a system cannot be reached or started, or the settings make no sense.
    """
    return _test({"dense": dense, "subnet": subnet}, load, prompts, rounds, None, api_key, serving, progress)


def _test(
    places: Mapping[str, str | Path],
    load: Load,
    prompts: PromptChoice | None,
    rounds: int,
    model: str | None,
    api_key: str | None,
    serving: Serving | None,
    progress: Quiet | None,
) -> dict[str, Any]:
    if rounds < 1:
        raise UserError(f"--rounds is {rounds}", "It must be at least 1.")
    prompts, serving, progress = prompts or PromptChoice(), serving or Serving(), progress or Quiet()
    given = file_prompts(prompts.file) if prompts.file else None
    for place in places.values():
        _check_place(place)
    with ExitStack() as stack:
        stack.enter_context(progress)
        systems = {
            name: _open(stack, name, place, model, serving, progress) for name, place in places.items()
        }
        asyncio.run(_rounds(systems, load, given, prompts, rounds, api_key, progress))
    settings = {**load.as_json(), **prompts.as_json(), "rounds": rounds, "serve_options": list(serving.extra)}
    return document(
        settings,
        {
            name: system_json(str(places[name]), system.target.model, system.rounds, system.memory)
            for name, system in systems.items()
        },
    )


def is_url(place: str | Path) -> bool:
    """Whether a place is a server's address rather than a directory."""
    return str(place).startswith(("http://", "https://"))


def _check_place(place: str | Path) -> None:
    if not is_url(place) and not Path(place).is_dir():
        raise UserError(
            f"{place} is neither a URL nor a directory",
            "Give a server as http://HOST:PORT, or a model as the path of its directory.",
        )


def _open(
    stack: ExitStack, name: str, place: str | Path, model: str | None, serving: Serving, progress: Quiet
) -> _System:
    if is_url(place):
        return _System(str(place), model)
    progress.stage(f"starting {name}: {place}")
    server = stack.enter_context(served(Path(place), serving.command, serving.extra, serving.ready_s))
    return _System(server.url, server.model, server.pid)


async def _rounds(
    systems: Mapping[str, _System],
    load: Load,
    given: Prompts | None,
    choice: PromptChoice,
    rounds: int,
    api_key: str | None,
    progress: Quiet,
) -> None:
    async with open_client() as http:
        for system in systems.values():
            system.target = await reach(http, system.url, system.model, api_key)
        first = next(iter(systems.values())).target
        counter = token_counter(http, first, load.endpoint, load.timeout_s)
        prompts = given or await fitted_prompts(choice.tokens or DEFAULT_PROMPT_TOKENS, counter)
        for index in range(rounds):
            pair = list(systems.items())
            for name, system in pair if index % 2 == 0 else reversed(pair):
                await _one_round(http, name, system, load, prompts, load.seed + index, progress)


async def _one_round(
    http: httpx.AsyncClient,
    name: str,
    system: _System,
    load: Load,
    prompts: Prompts,
    seed: int,
    progress: Quiet,
) -> None:
    progress.start_round(name, load)
    async with watched(system.memory, http, system.target, system.pid):
        one = await drive(http, system.target, load, prompts, seed, lambda _: progress.request_done())
    system.rounds.append(one)
    progress.end_round(name, one)
