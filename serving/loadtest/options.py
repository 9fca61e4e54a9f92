"""The options of `lathe loadtest`: declared once, and checked before a server is asked for anything."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lathe.artefact.command_options import Argument, Option
from lathe.artefact.errors import UserError
from lathe.serving.loadtest.dialect import read_extra_body
from lathe.serving.loadtest.load import Arrival, Endpoint, Load
from lathe.serving.loadtest.prompts import DEFAULT_PROMPT_TOKENS, PromptChoice

if TYPE_CHECKING:  # `lathe --help` needs no HTTP client
    from lathe.serving.loadtest.testbed import Setup

SLO, LOAD, PROMPTS = "Most users within limits", "Load", "Prompts and answers"
SERVER, REPORT = "Server", "Report"

REQUESTS, SLO_REQUESTS = 20, 40
ROUNDS, COMPARED_ROUNDS = 1, 3


@dataclass(frozen=True, kw_only=True)
class LoadTestOptions:
    """The options of `lathe loadtest`: the servers, the load, its limits, and the files to write."""

    target: Annotated[
        str,
        Argument(metavar="URL|OUT", help="A server's URL, or a model to serve: its directory or GGUF file."),
    ]
    against: Annotated[
        str | None, Option(metavar="MODEL", help="The dense model to compare with, or its server's URL.")
    ] = None
    slo: Annotated[
        str | None,
        Option(
            metavar="LIMITS",
            help="Find the most users, or the highest --rate, within these: tpot=30ms,ttft=200ms,e2e=2s. "
            "With --duration or --trace: the share of that load's requests within them.",
            panel=SLO,
        ),
    ] = None
    slo_share: Annotated[
        str,
        Option(metavar="SHARE", help="The share of requests that has to keep every limit.", panel=SLO),
    ] = "95%"
    rate: Annotated[
        float | None,
        Option(help="Open loop: requests per second, sent whatever the server does.", panel=LOAD),
    ] = None
    arrival: Annotated[Arrival, Option(help="Gaps between requests of --rate.", panel=LOAD)] = Load.arrival
    concurrency: Annotated[
        int | None,
        Option(
            help="Closed loop: requests kept in flight.",
            unset="1, unless --rate or --trace is given",
            panel=LOAD,
        ),
    ] = None
    ramp_to: Annotated[
        float | None,
        Option(help="Let --rate change, or --concurrency grow, to this within --duration.", panel=LOAD),
    ] = None
    trace: Annotated[
        Path | None,
        Option(
            metavar="JSONL",
            help="Open loop: recorded requests, a line each: at_s, prompt_tokens, output_tokens "
            "(or Mooncake's fields).",
            panel=LOAD,
        ),
    ] = None
    requests: Annotated[
        int | None,
        Option(
            help="Requests in a round; in a search by --slo those that are evaluated.",
            unset=f"{REQUESTS}, in a search by --slo {SLO_REQUESTS}, unless --duration or --trace is given",
            panel=LOAD,
        ),
    ] = None
    duration: Annotated[
        float | None,
        Option(
            metavar="SECONDS",
            help="The time to send requests for in a round; answers under way are awaited.",
            panel=LOAD,
        ),
    ] = None
    warmup: Annotated[int, Option(help="Requests before each round that are not measured.", panel=LOAD)] = (
        Load.warmup
    )
    rounds: Annotated[
        int | None,
        Option(
            help="Rounds, the order alternating; in a search by --slo at most so many for a level.",
            unset=f"{COMPARED_ROUNDS} with --against or in a search by --slo, otherwise {ROUNDS}",
            panel=LOAD,
        ),
    ] = None
    seed: Annotated[int, Option(help="Sets prompts and arrival times.", panel=LOAD)] = Load.seed
    timeout: Annotated[
        float, Option(metavar="SECONDS", help="A request that takes longer has failed.", panel=LOAD)
    ] = Load.timeout_s
    prompt_tokens: Annotated[
        int | None,
        Option(
            help="Length of the generated prompts.",
            unset=f"{DEFAULT_PROMPT_TOKENS}, unless --prompts is given",
            panel=PROMPTS,
        ),
    ] = None
    prompts: Annotated[
        Path | None, Option(help="Prompts of your own: one a line, or .jsonl.", panel=PROMPTS)
    ] = None
    output_tokens: Annotated[
        int | None,
        Option(
            help="Tokens of each answer (the end token is ignored).",
            unset=f"{Load.output_tokens}, unless --trace is given",
            panel=PROMPTS,
        ),
    ] = None
    endpoint: Annotated[
        Endpoint | None,
        Option(help="The API route.", unset=f"that of the URL, otherwise {Load.endpoint}", panel=PROMPTS),
    ] = None
    extra_body: Annotated[
        Mapping[str, Any],
        Option(
            metavar="JSON",
            help="Object of fields to add to every request; null leaves one of ours out.",
            parser=read_extra_body,
            panel=PROMPTS,
        ),
    ] = field(default_factory=dict)
    model: Annotated[
        str | None,
        Option(help="Model name to ask a URL for.", unset="the first that it lists", panel=SERVER),
    ] = None
    api_key: Annotated[
        str | None, Option(envvar="LATHE_API_KEY", help="Bearer key of the server.", panel=SERVER)
    ] = field(default=None, repr=False)
    serve_options: Annotated[
        str,
        Option(
            metavar="OPTIONS",
            help="Added to `lathe serve` for directories, e.g. '--threads 2'.",
            panel=SERVER,
        ),
    ] = ""
    engine: Annotated[
        str,
        Option(
            help="The program that sends and times the requests. guidellm, installed elsewhere, is a second "
            "opinion.",
            panel=REPORT,
        ),
    ] = "lathe"
    guidellm: Annotated[
        str | None,
        Option(metavar="PROGRAM", help="Its path, if guidellm is not on PATH.", panel=REPORT),
    ] = None
    as_json: Annotated[
        bool,
        Option(flags=("--json",), help="Print the JSON document, and nothing else, on stdout.", panel=REPORT),
    ] = False
    output: Annotated[
        Path | None,
        Option(flags=("--output", "-o"), help="Write the JSON document here.", panel=REPORT),
    ] = None
    html: Annotated[
        Path | None,
        Option(metavar="PAGE", help="Write tables and plots as one HTML file here.", panel=REPORT),
    ] = None

    def __post_init__(self) -> None:
        from lathe.serving.loadtest.testbed import is_url

        if self.model and not (is_url(self.target) and self.against is None):
            raise UserError("--model names a model of a running server", "Drop it, or load a single URL.")
        if self.trace and self.output_tokens is not None:
            raise UserError("A trace has the lengths of its answers", "Drop --output-tokens, or --trace.")
        for file in (self.output, self.html):
            if file:
                _check_writable(file)

    @property
    def searches(self) -> bool:
        """Whether the most load within limits is looked for, rather than a given load held against them."""
        return self.slo is not None and self.duration is None and self.trace is None

    @property
    def round_count(self) -> int:
        """Rounds for each system."""
        if self.rounds is not None:
            return self.rounds
        return ROUNDS if self.against is None and not self.searches else COMPARED_ROUNDS

    def load(self) -> Load:
        """Returns what is sent in every round.

        Raises:
            UserError: the options do not describe a load, or the trace cannot be read.
        """
        from lathe.serving.loadtest.trace import read_trace

        requests, concurrency = self.requests, self.concurrency
        if requests is None and self.duration is None and self.trace is None:
            requests = REQUESTS if self.slo is None else SLO_REQUESTS
        if concurrency is None and self.rate is None and self.trace is None:
            concurrency = 1
        return Load(
            rate=self.rate,
            concurrency=concurrency,
            trace=read_trace(self.trace) if self.trace else None,
            ramp_to=self.ramp_to,
            arrival=self.arrival,
            requests=requests,
            duration_s=self.duration,
            warmup=self.warmup,
            output_tokens=Load.output_tokens if self.output_tokens is None else self.output_tokens,
            endpoint=self._endpoint(),
            seed=self.seed,
            timeout_s=self.timeout,
        )

    def setup(self) -> Setup:
        """Returns the prompts, the servers, and the program that sends the requests.

        Raises:
            UserError: the prompts or that program cannot be used.
        """
        from lathe.serving.loadtest.engine import find_load_tester
        from lathe.serving.loadtest.progress import Terminal
        from lathe.serving.loadtest.testbed import Serving, Setup

        known_rounds = self.round_count * (1 if self.against is None else 2)
        return Setup(
            prompts=PromptChoice(self.prompt_tokens, self.prompts),
            serving=Serving(extra=shlex.split(self.serve_options)),
            model=self.model,
            api_key=self.api_key,
            extra_body=self.extra_body,
            engine=find_load_tester(self.engine, self.guidellm),
            progress=Terminal(None if self.searches else known_rounds),
        )

    def _endpoint(self) -> Endpoint:
        from lathe.serving.loadtest.address import read_address
        from lathe.serving.loadtest.testbed import is_url

        of_url = read_address(self.target).endpoint if is_url(self.target) else None
        return self.endpoint or of_url or Load.endpoint


def _check_writable(file: Path) -> None:
    if not file.absolute().parent.is_dir():
        raise UserError(f"The directory of {file} does not exist", "Make it, or choose another place.")
    if file.is_dir() or not os.access(file.absolute().parent, os.W_OK):
        raise UserError(f"{file} cannot be written", "Choose another place.")
