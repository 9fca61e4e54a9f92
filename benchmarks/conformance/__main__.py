"""Does our server say what others expect? Suites that nobody here wrote, on a served model.

    make conformance [MODEL=dir] [CONFORMANCE='--examples 100']

The suites live in environments of their own that make fetches from PyPI; nothing else is fetched. Prints a
line per suite and writes build/bench/conformance.json; exit status 1 when a result is worse than stated.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.conformance import load_testers, openai_client, perplexity, suites
from benchmarks.conformance.clients.scripted import COMMAND, with_tools
from benchmarks.conformance.clients.suites import PACKAGES, client_suite
from benchmarks.loadtest import streams
from lathe.serving.loadtest.servers import RunningServer, served

NAME = "served"
DEMO = Path("demo/model")
TOLERANCE = 1e-3
TEXT_LIMIT = 40_000
SUITES = (
    "comply",
    "responses",
    "own",
    "openai",
    "open-responses",
    "client",
    *PACKAGES,
    "perplexity",
    "promtool",
    "aiperf",
    "aiperf-completions",
    "guidellm",
    "streams",
)
OPTIONS = ("--served-model-name", NAME, "--max-length", "256", "--max-batch", "16")


def main() -> int:
    args = _arguments()
    rows: list[suites.Row] = []
    with (
        tempfile.TemporaryDirectory(prefix="lathe-conformance-") as scratch,
        served(args.model, extra=OPTIONS) as at,
    ):
        run = _runs(args, at.url, Path(scratch))
        for name in args.suites.split(","):
            row = run[name]()
            rows.append(row)
            print(f"{'held' if row['held'] else 'BROKEN':7}{row['suite']:52}{row['result']}", flush=True)
            for test, reason in dict(row.get("others") or {}).items():
                print(f"{'':9}{test}: {reason}")
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(rows, indent=1) + "\n")
    return int(not all(row["held"] for row in rows))


def _runs(args: argparse.Namespace, url: str, scratch: Path) -> dict[str, Any]:
    tools = args.tools
    published = partial(suites.published_schema, tools, url, NAME, args.openai_examples, scratch)
    return {
        "comply": lambda: _comply(args, "openai-chat", scratch),
        "responses": lambda: _comply(args, "open-responses", scratch),
        "own": lambda: suites.own_schema(tools, url, NAME, args.examples),
        "openai": lambda: published("OpenAI"),
        "open-responses": lambda: published("Open Responses"),
        "perplexity": lambda: _perplexity(args, url, scratch),
        "client": lambda: _client(args, scratch),
        **{package: partial(_package, args, package, scratch) for package in PACKAGES},
        "promtool": lambda: suites.promtool(args.promtool, url),
        "aiperf": lambda: load_testers.aiperf(args.aiperf, url, NAME, args.model, "chat", scratch),
        "aiperf-completions": lambda: load_testers.aiperf(
            args.aiperf, url, NAME, args.model, "completions", scratch
        ),
        "guidellm": lambda: load_testers.guidellm(args.guidellm, url, "chat"),
        "streams": streams.suite,
    }


def _comply(args: argparse.Namespace, api: str, scratch: Path) -> suites.Row:
    with _told(scratch / f"model-{api}") as at:
        return suites.llm_comply(args.tools, at.url, NAME, api)


def _client(args: argparse.Namespace, scratch: Path) -> suites.Row:
    """On a server that goes by the names that the tests ask for."""
    names = [word for name in openai_client.MODELS for word in ("--served-model-name", name)]
    with served(args.model, extra=names) as at:
        return openai_client.generated_tests(args.tools, args.openai_python, at.url, scratch)


def _package(args: argparse.Namespace, package: str, scratch: Path) -> suites.Row:
    with _told(scratch / f"model-{package}") as at:
        return client_suite(args.clients, package, at.url, NAME, scratch)


def _told(directory: Path) -> AbstractContextManager[RunningServer]:
    """A server with the whole context, in which answers have room to end, told when to call a tool."""
    return served(with_tools(DEMO, directory), COMMAND, ("--served-model-name", NAME))


def _perplexity(args: argparse.Namespace, url: str, scratch: Path) -> suites.Row:
    text = args.text.read_text(encoding="utf-8")[:TEXT_LIMIT]
    found = perplexity.compare(args.lm_eval, url, NAME, args.model, text, scratch)
    return {
        "suite": "lm-eval local-completions, word perplexity",
        "result": f"{found['served']:.4f} served, {found['in_process']:.4f} in this process: "
        f"{found['relative_difference']:.1e} apart",
        "held": found["relative_difference"] <= TOLERANCE,
        **found,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Suites of others against our server.")
    parser.add_argument(
        "--model", type=Path, default=DEMO, help="llm-comply and the clients get the demo's, shown tools"
    )
    parser.add_argument("--text", type=Path, default=Path("demo/heldout.txt"))
    parser.add_argument("--suites", default=",".join(SUITES))
    parser.add_argument("--examples", type=int, default=450, help="of schemathesis, per operation")
    parser.add_argument("--openai-examples", type=int, default=350)
    parser.add_argument("--tools", type=Path, default=Path(".venv-conformance/bin"))
    parser.add_argument("--openai-python", type=Path, default=Path("build/tools/openai-3.57.0"))
    parser.add_argument("--clients", type=Path, default=Path(".venv-clients/bin/python"))
    parser.add_argument("--lm-eval", type=Path, default=Path(".venv-lm-eval/bin"))
    parser.add_argument("--promtool", type=Path, default=Path("build/tools/usr/bin/promtool"))
    parser.add_argument("--aiperf", type=Path, default=Path(".venv-aiperf/bin/aiperf"))
    parser.add_argument("--guidellm", type=Path, default=Path(".venv-guidellm/bin/guidellm"))
    parser.add_argument("--out", type=Path, default=Path("build/bench/conformance.json"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
