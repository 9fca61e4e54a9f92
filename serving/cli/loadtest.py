"""`lathe loadtest`: what a server does under load, and dense beside subnet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

LOAD, PROMPTS, SERVER, REPORT = "Load", "Prompts and answers", "Server", "Report"


def loadtest(
    target: Annotated[
        str, typer.Argument(metavar="URL|OUT", help="A server's URL, or a directory to serve.")
    ],
    against: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The dense model (directory or URL) to compare with."),
    ] = None,
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
            help="Closed loop: requests kept in flight. 1 if neither this nor --rate is given.",
            rich_help_panel=LOAD,
        ),
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option(help="Requests in a round. 20 if --duration is not given.", rich_help_panel=LOAD),
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
            help="Rounds, the order alternating. 3 with --against, otherwise 1.", rich_help_panel=LOAD
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
        int, typer.Option(help="Tokens of each answer (the end token is ignored).", rich_help_panel=PROMPTS)
    ] = 64,
    endpoint: Annotated[
        Literal["completions", "chat"], typer.Option(help="The API route.", rich_help_panel=PROMPTS)
    ] = "completions",
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
) -> None:
    """Measure time to first token, time per token, throughput and memory of a server.

    Works on any OpenAI-compatible server. With a directory the server is started, and stopped,
    for you; with --against both models are served and loaded in turns, so that a slow moment of the
    machine falls on both, and the report shows them side by side. Exits with 1 if a request failed.

    \b
    lathe loadtest out/ --against models/dense
    lathe loadtest out/ --against models/dense --concurrency 8 --rounds 5 -o loadtest.json
    lathe loadtest http://127.0.0.1:8000 --rate 4 --duration 60
    lathe loadtest http://127.0.0.1:8000 --prompt-tokens 512 --output-tokens 128 --json > run.json
    """
    import json
    import shlex

    from compressor.errors import UserError
    from serving.loadtest.compare import PromptChoice, Serving, compare, is_url, run
    from serving.loadtest.document import write_document
    from serving.loadtest.load import Load
    from serving.loadtest.progress import Terminal
    from serving.loadtest.report import failures, print_report

    if model and not (is_url(target) and against is None):
        raise UserError("--model names a model of a running server", "Drop it, or load a single URL.")
    if output and not output.absolute().parent.is_dir():
        raise UserError(f"The directory of {output} does not exist", "Make it, or choose another --output.")
    load = Load(
        rate=rate,
        concurrency=1 if rate is None and concurrency is None else concurrency,
        arrival=arrival,
        requests=20 if requests is None and duration is None else requests,
        duration_s=duration,
        warmup=warmup,
        output_tokens=output_tokens,
        endpoint=endpoint,
        seed=seed,
        timeout_s=timeout,
    )
    rounds = rounds if rounds is not None else (1 if against is None else 3)
    common: dict[str, Any] = {
        "prompts": PromptChoice(prompt_tokens, prompts),
        "rounds": rounds,
        "api_key": api_key,
        "serving": Serving(extra=shlex.split(serve_options)),
        "progress": Terminal(rounds if against is None else 2 * rounds),
    }
    if against is None:
        result = run(target, load, model=model, **common)
    else:
        result = compare(target, against, load, **common)
    if output:
        write_document(result, output)
    if json_:
        typer.echo(json.dumps(result, indent=1))
    else:
        print_report(result)
    if failed := failures(result):
        raise UserError(failed, "The numbers are of the other requests.")
