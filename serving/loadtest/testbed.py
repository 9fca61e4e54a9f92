"""The systems under test, up and ready to be loaded round by round."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from lathe.artefact.errors import UserError
from lathe.artefact.gguf_suffix import is_gguf
from lathe.serving.loadtest.address import is_loopback, read_address
from lathe.serving.loadtest.client import Target, open_client
from lathe.serving.loadtest.document import redacted
from lathe.serving.loadtest.engine import LoadTester, RoundSpec
from lathe.serving.loadtest.engines.lathe import BuiltinLoadTester
from lathe.serving.loadtest.load import Endpoint, Load
from lathe.serving.loadtest.measure import Round
from lathe.serving.loadtest.memory import Memory, watched
from lathe.serving.loadtest.probe import reach, token_counter
from lathe.serving.loadtest.progress import Quiet
from lathe.serving.loadtest.prompts import PromptChoice, Prompts
from lathe.serving.loadtest.servers import SERVE, served

T = TypeVar("T")


@dataclass(frozen=True)
class Serving:
    """How directories are served: the command, what is added to it, and how long starting may take."""

    command: Sequence[str] = SERVE
    extra: Sequence[str] = ()
    ready_s: float = 600.0


@dataclass(frozen=True)
class Setup:
    """The settings of a load test besides the load.

    Attributes:
        prompts: which prompts are sent.
        serving: how directories are served.
        model: the name of the model to ask a URL for; None: the first that it lists.
        api_key: the servers' key.
        extra_body: fields for every request's body.
        engine: the load tester that sends.
        progress: is told about stages, rounds and requests.
    """

    prompts: PromptChoice = field(default_factory=PromptChoice)
    serving: Serving = field(default_factory=Serving)
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    engine: LoadTester = field(default_factory=BuiltinLoadTester)
    progress: Quiet = field(default_factory=Quiet)

    def as_json(self, load: Load) -> dict[str, Any]:
        """Returns the settings that are needed to send the same load again."""
        return {
            "engine": self.engine.name,
            **load.as_json(),
            **(self.prompts.as_json() if load.trace is None else {}),
            "serve_options": redacted(self.serving.extra),
            **({"extra_body": dict(self.extra_body)} if self.extra_body else {}),
        }


@dataclass
class System:
    """A system under test, and the memory it was seen to need."""

    place: str
    target: Target
    pid: int | None = None
    memory: Memory = field(default_factory=Memory)


class Testbed:
    """Systems by name, all up; one at a time is loaded."""

    def __init__(
        self, systems: Mapping[str, System], http: httpx.AsyncClient, prompts: Prompts, setup: Setup
    ) -> None:
        self.systems = systems
        self._http, self._prompts, self._setup = http, prompts, setup

    async def round(self, name: str, load: Load, seed: int) -> Round:
        """Sends one round of `load` to the system `name`; the seed sets prompts and arrival times."""
        system, progress = self.systems[name], self._setup.progress
        progress.start_round(name, load)
        async with watched(system.memory, self._http, system.target, system.pid):
            one = await self._setup.engine.round(
                RoundSpec(
                    self._http, system.target, load, self._prompts, seed, lambda _: progress.request_done()
                )
            )
        progress.end_round(name, one)
        return one


def on_testbed(
    places: Mapping[str, str | Path], load: Load, setup: Setup, job: Callable[[Testbed], Awaitable[T]]
) -> tuple[T, Mapping[str, System]]:
    """Starts or reaches every place (a URL, or a model, which is served), does the job, and stops them.

    Returns:
        The result of the job, and the systems.

    Raises:
        UserError: a place cannot be reached or started, or the settings make no sense.
    """
    setup.engine.check(load)
    setup.prompts.check(load.trace)
    for place in places.values():
        _check_place(place, load.endpoint)
    with ExitStack() as stack:
        stack.enter_context(setup.progress)
        systems = {name: _open(stack, name, place, setup) for name, place in places.items()}

        async def work() -> T:
            remote = any(not is_loopback(system.target.url) for system in systems.values())
            async with open_client(proxies=remote) as http:
                for system in systems.values():
                    asked = system.target
                    system.target = await reach(
                        http, asked.url, asked.model or None, setup.api_key, setup.extra_body
                    )
                first = next(iter(systems.values())).target
                counter = token_counter(http, first, load.endpoint, load.timeout_s)
                prompts = await setup.prompts.make(load.trace, counter)
                return await job(Testbed(systems, http, prompts, setup))

        return asyncio.run(work()), systems


def is_url(place: str | Path) -> bool:
    """Returns whether a place is a server's address rather than a model's path."""
    return str(place).startswith(("http://", "https://"))


def _check_place(place: str | Path, endpoint: Endpoint) -> None:
    if is_url(place):
        named = read_address(str(place)).endpoint
        if named not in (None, endpoint):
            raise UserError(
                f"{place} is the address of {named}", f"Add --endpoint {named}, or leave that off."
            )
    if not is_url(place) and not Path(place).is_dir() and not is_gguf(place):
        raise UserError(
            f"{place} is neither a URL nor a model",
            "Give a server as http://HOST:PORT, or a model as the path of its directory or GGUF file.",
        )


def _open(stack: ExitStack, name: str, place: str | Path, setup: Setup) -> System:
    if is_url(place):
        return System(str(place), Target(str(place), setup.model or ""))
    setup.progress.stage(f"starting {name}: {place}")
    serving = setup.serving
    server = stack.enter_context(served(Path(place), serving.command, serving.extra, serving.ready_s))
    return System(str(place), Target(server.url, server.model), server.pid)
