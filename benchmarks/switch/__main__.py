"""Dense model, smallest subnet, and a family that switches, each under the same ramp of requests.

    make bench-switch FAMILY=out DENSE=dense-int8 BENCH='--duration 90'

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
from pathlib import Path
from typing import Any

from benchmarks.switch.ramp import DENSE, SMALLEST, SWITCHING, mean_loss, under_ramp
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
    smallest = family.directory(family.plans[-1])
    sending = Sending(
        args.prompt_tokens, args.output_tokens, args.seed, args.users, shlex.split(args.serve_options)
    )
    speeds = {}
    if not (args.slo and args.rates):
        speeds = {
            name: speed_of(model, sending) for name, model in ((DENSE, args.dense), (SMALLEST, smallest))
        }
    slo = parse_slo(args.slo) if args.slo else limits_of(speeds[DENSE])
    rates = args.rates or rates_of(speeds[DENSE], speeds[SMALLEST])
    rows, samples = _rows(args, family, smallest, sending, slo, rates)
    shown = verdict(rows)
    document = {
        "command": shlex.join(sys.argv),
        "machine": machine(),
        "settings": _settings(args, slo, rates, speeds),
        "rows": rows,
        "shown": shown,
        "samples": samples,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, document)
    print(table(rows))
    for what, is_so in shown.items():
        print(f"{'yes' if is_so else 'NO '}  {what}")
    return shown


def _rows(
    args: argparse.Namespace,
    family: Family,
    smallest: Path,
    sending: Sending,
    slo: Slo,
    rates: tuple[float, float],
) -> tuple[dict[str, Any], dict[str, Any]]:
    load = sending.load(rate=rates[0], ramp_to=rates[1], duration_s=args.duration)
    limits = ",".join(f"{name}={1e3 * seconds:.3f}ms" for name, seconds in slo.limits_s.items())
    servers: dict[str, tuple[Path, list[str]]] = {
        DENSE: (args.dense, []),
        SMALLEST: (smallest, []),
        SWITCHING: (args.family, ["--switch", "slo", "--slo", limits]),
    }
    alone = {DENSE: 0.0, SMALLEST: family.plans[-1].loss_increase, SWITCHING: None}
    rows, samples = {}, {}
    for name, (model, options) in servers.items():
        rows[name], samples[name] = under_ramp(model, options, load, slo, sending)
        rows[name]["mean_loss"] = mean_loss(rows[name]["answered_by"], family, alone[name])
        print(f"{name}: {rows[name]['within']:.1%} of {rows[name]['requests']} within {limits}", flush=True)
    return rows, samples


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
    parser.add_argument(
        "--dense", type=Path, required=True, help="the dense model, in the bits of the family"
    )
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
