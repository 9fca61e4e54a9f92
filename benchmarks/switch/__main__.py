"""Dense model, smallest subnet, and a family that switches, each under the same ramp of requests.

    make bench-switch FAMILY=out DENSE=dense-int8 BENCH='--duration 90'

DENSE is an artefact of `lathe export MODEL --to onnx`, in the bits of the family. It is served as a family of
one, and the smallest subnet by the server of its family, so that all three have the same threads.

A server of each is started alone, and gets the same prompts at the same times: requests per second that grow
evenly from what the dense model bears to what only the smallest subnet does. Limits and rates are found from
what both do on this machine, unless they are given. The loss of what was answered is the mean of the
increases that `family.json` states; the dense model's is 0. Writes JSON, prints a table, and tells what that
shows.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.switch.ramp import DENSE, SMALLEST, SWITCHING, family_of_one, under_ramp
from benchmarks.switch.setting import Sending, Speed, limits_of, rates_of, speed_of
from benchmarks.switch.verdict import table, verdict
from lathe.artefact.atomic_files import write_json
from lathe.artefact.errors import UserError
from lathe.artefact.family import Family, read_family
from lathe.serving.loadtest.document import machine
from lathe.serving.loadtest.slo import Slo, parse_slo


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 if everything is shown."""
    args = _parser().parse_args(arguments)
    try:
        return 0 if all(compare(args).values()) else 1
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def compare(args: argparse.Namespace) -> dict[str, bool]:
    """Measures, writes and prints; returns what is shown.

    Raises:
        UserError: a model cannot be served, or no ramp is beyond one and not the other.
    """
    family = read_family(args.family)
    sending = Sending(
        args.prompt_tokens, args.output_tokens, args.seed, args.users, shlex.split(args.serve_options)
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out.parent, prefix=".switch-") as directory:
        dense = family_of_one(args.dense, Path(directory) / DENSE)
        document = _measured(args, dense, family, sending)
    write_json(args.out, document)
    print(table(document["rows"]))
    shown: dict[str, bool] = document["shown"]
    for what, is_so in shown.items():
        print(f"{'yes' if is_so else 'NO '}  {what}")
    return shown


def _measured(args: argparse.Namespace, dense: Family, family: Family, sending: Sending) -> dict[str, Any]:
    """Returns the document."""
    smallest = family.plans[-1].name
    speeds = {}
    if not (args.slo and args.rates):
        speeds[DENSE] = speed_of(dense, DENSE, sending)
        speeds[SMALLEST] = speed_of(family, smallest, sending)
    slo = parse_slo(args.slo) if args.slo else limits_of(speeds[DENSE])
    rates = args.rates or rates_of(speeds[DENSE], speeds[SMALLEST])
    load = sending.load(rate=rates[0], ramp_to=rates[1], duration_s=args.duration)
    limits = ",".join(f"{name}={1e3 * seconds:.3f}ms" for name, seconds in slo.limits_s.items())
    servers: dict[str, tuple[Family, str | None, list[str]]] = {
        DENSE: (dense, DENSE, []),
        SMALLEST: (family, smallest, []),
        SWITCHING: (family, None, ["--switch", "slo", "--slo", limits]),
    }
    rows, samples = {}, {}
    for name, (served, subnet, options) in servers.items():
        rows[name], samples[name] = under_ramp(served, subnet, options, load, slo, sending)
        print(f"{name}: {rows[name]['within']:.1%} of {rows[name]['requests']} within {limits}", flush=True)
    return {
        "command": shlex.join(sys.argv),
        "machine": machine(),
        "settings": _settings(args, slo, rates, speeds),
        "rows": rows,
        "shown": verdict(rows),
        "samples": samples,
    }


def _settings(
    args: argparse.Namespace, slo: Slo, rates: tuple[float, float], speeds: dict[str, Speed]
) -> dict[str, Any]:
    names = ("duration", "prompt_tokens", "output_tokens", "users", "seed", "serve_options")
    return {
        **{name: getattr(args, name) for name in names},
        "slo": slo.as_json(),
        "rates": list(rates),
        "speeds": {name: vars(speed) for name, speed in speeds.items()},
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", type=Path, required=True, help="its directory")
    parser.add_argument("--dense", type=Path, required=True, help="an artefact of the dense model")
    parser.add_argument("--slo", help="limits, such as tpot=30ms,ttft=200ms; else by the dense model's speed")
    parser.add_argument(
        "--rates", type=_rates, help="requests/s of the ramp, such as 0.5:4; else by both speeds"
    )
    parser.add_argument("--duration", type=float, default=75.0, help="seconds of the ramp")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--output-tokens", type=int, default=48)
    parser.add_argument("--users", type=int, default=8, help="that load a server fully")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve-options", default="", help="for every server, such as '--threads 2'")
    parser.add_argument("--out", type=Path, default=Path("build/bench/switch.json"))
    return parser


def _rates(text: str) -> tuple[float, float]:
    first, _, last = text.partition(":")
    return float(first), float(last)


if __name__ == "__main__":
    sys.exit(main())
