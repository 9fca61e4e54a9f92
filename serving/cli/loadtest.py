"""`lathe loadtest`: what a server does under load, and dense beside subnet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

SLO, LOAD, PROMPTS = "Most users within limits", "Load", "Prompts and answers"
SERVER, REPORT = "Server", "Report"


def loadtest(
    target: Annotated[
        str, typer.Argument(metavar="URL|OUT", help="A server's URL, or a directory to serve.")
    ],
    against: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The dense model (directory or URL) to compare with."),
    ] = None,
    slo: Annotated[
        str | None,
        typer.Option(
            metavar="LIMITS",
            help="Find the most users, or the highest --rate, within these: tpot=30ms,ttft=200ms,e2e=2s.",
            rich_help_panel=SLO,
        ),
    ] = None,
    slo_share: Annotated[
        str, typer.Option(metavar="SHARE", help="Share of the requests that keeps all.", rich_help_panel=SLO)
    ] = "95%",
    rate: Annotated[
        float | None,
        typer.Option(
            help="Open loop: requests per second, sent whatever the server does.", rich_help_panel=LOAD
        ),
    ] = None,
    arrival: Annotated[
        Literal["poisson", "constant"],
        typer.Option(help="Gaps between requests of --rate.", rich_help_panel=LOAD),
    ] = "poisson",
    concurrency: Annotated[
        int | None,
        typer.Option(
            help="Closed loop: requests kept in flight. 1 if nothing else says how they come.",
            rich_help_panel=LOAD,
        ),
    ] = None,
    ramp_to: Annotated[
        float | None,
        typer.Option(
            help="Let --rate change, or --concurrency grow, to this within --duration.", rich_help_panel=LOAD
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="JSONL",
            help="Open loop: recorded requests, a line each: at_s, prompt_tokens, output_tokens "
            "(or Mooncake's fields).",
            rich_help_panel=LOAD,
        ),
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option(
            help="Requests in a round; with --slo those that are judged. 20, with --slo 40, if neither "
            "--duration nor --trace is given.",
            rich_help_panel=LOAD,
        ),
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Send for so long in a round; answers under way are awaited.",
            rich_help_panel=LOAD,
        ),
    ] = None,
    warmup: Annotated[
        int, typer.Option(help="Requests before each round that are not measured.", rich_help_panel=LOAD)
    ] = 2,
    rounds: Annotated[
        int | None,
        typer.Option(
            help="Rounds, the order alternating; with --slo at most so many for a level. 3 with --against or "
            "--slo, otherwise 1.",
            rich_help_panel=LOAD,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Sets prompts and arrival times.", rich_help_panel=LOAD)] = 0,
    timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="A request that takes longer has failed.", rich_help_panel=LOAD),
    ] = 120.0,
    prompt_tokens: Annotated[
        int | None,
        typer.Option(help="Length of the generated prompts. 128 without --prompts.", rich_help_panel=PROMPTS),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Prompts of your own: one a line, or .jsonl.", rich_help_panel=PROMPTS),
    ] = None,
    output_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens of each answer (the end token is ignored). 64 without --trace.",
            rich_help_panel=PROMPTS,
        ),
    ] = None,
    endpoint: Annotated[
        Literal["completions", "chat"] | None,
        typer.Option(
            help="The API route; completions, if the URL does not end in one.", rich_help_panel=PROMPTS
        ),
    ] = None,
    extra_body: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="Object of fields to add to every request; null leaves one of ours out.",
            rich_help_panel=PROMPTS,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model name to ask a URL for; the first it lists if not given.", rich_help_panel=SERVER
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="LATHE_API_KEY", help="Bearer key of the server.", rich_help_panel=SERVER),
    ] = None,
    serve_options: Annotated[
        str,
        typer.Option(
            metavar="OPTIONS",
            help="Added to `lathe serve` for directories, e.g. '--threads 2'.",
            rich_help_panel=SERVER,
        ),
    ] = "",
    engine: Annotated[
        Literal["lathe", "guidellm"],
        typer.Option(
            help="Who sends and times the requests. guidellm, installed elsewhere, is a second opinion.",
            rich_help_panel=REPORT,
        ),
    ] = "lathe",
    guidellm: Annotated[
        str | None,
        typer.Option(metavar="PROGRAM", help="Its path, if guidellm is not on PATH.", rich_help_panel=REPORT),
    ] = None,
    json_: Annotated[
        bool,
        typer.Option(
            "--json", help="Print the JSON document, and nothing else, on stdout.", rich_help_panel=REPORT
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the JSON document here.", rich_help_panel=REPORT),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="PAGE", help="Write tables and plots as one HTML file here.", rich_help_panel=REPORT
        ),
    ] = None,
) -> None:
    """Measure time to first token, time per token, throughput and memory of a server.

    Works on any OpenAI-compatible server, at https://HOST/v1 or any other version or path; what one refuses
    by name is left out, and told. With a directory the server is started, and stopped,
    for you; with --against both models are served and loaded in turns, so that a slow moment of the
    machine falls on both, and the report shows them side by side. With --slo the load is doubled, and
    then bisected, until the most is found that keeps the limits. Exits with 1 if a request failed, with
    --slo only at the lowest load.

    \b
    lathe loadtest out/ --against models/dense
    lathe loadtest out/ --against models/dense --slo 'tpot=30ms,ttft=200ms' --html most.html
    lathe loadtest out/ --against models/dense --concurrency 8 --rounds 5 -o loadtest.json
    lathe loadtest http://127.0.0.1:8000 --rate 4 --duration 60
    lathe loadtest http://127.0.0.1:8000 --concurrency 1 --ramp-to 16 --duration 120
    lathe loadtest http://127.0.0.1:8000 --trace monday.jsonl --json > run.json
    """
    import shlex

    from lathe.artefact.errors import UserError
    from lathe.serving.loadtest.address import read_address
    from lathe.serving.loadtest.command import LoadTestOptions, carry_out
    from lathe.serving.loadtest.dialect import read_extra_body
    from lathe.serving.loadtest.engine import find_engine
    from lathe.serving.loadtest.load import Load
    from lathe.serving.loadtest.progress import Terminal
    from lathe.serving.loadtest.prompts import PromptChoice
    from lathe.serving.loadtest.testbed import Serving, Setup, is_url
    from lathe.serving.loadtest.trace import read_trace

    if rounds is None:
        rounds = 1 if against is None and slo is None else 3
    asked = LoadTestOptions(target, against, slo, slo_share, rounds, output, html, json_)
    asked.check(model)
    if trace and output_tokens is not None:
        raise UserError("A trace has the lengths of its answers", "Drop --output-tokens, or --trace.")
    if requests is None and duration is None and trace is None:
        requests = 20 if slo is None else 40
    load = Load(
        rate=rate,
        concurrency=1 if rate is None and trace is None and concurrency is None else concurrency,
        trace=read_trace(trace) if trace else None,
        ramp_to=ramp_to,
        arrival=arrival,
        requests=requests,
        duration_s=duration,
        warmup=warmup,
        output_tokens=64 if output_tokens is None else output_tokens,
        endpoint=endpoint or (read_address(target).endpoint if is_url(target) else None) or "completions",
        seed=seed,
        timeout_s=timeout,
    )
    known_rounds = None if slo else rounds if against is None else 2 * rounds
    setup = Setup(
        PromptChoice(prompt_tokens, prompts),
        Serving(extra=shlex.split(serve_options)),
        model,
        api_key,
        read_extra_body(extra_body),
        find_engine(engine, guidellm),
        Terminal(known_rounds),
    )
    carry_out(asked, load, setup)
