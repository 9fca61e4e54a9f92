"""Subnets of domains, the general one and masks by activation at equal milliseconds: what do they lose?

    make bench-domains MODEL=dir DOMAINS='--domain code=a.txt --domain prose=b.txt' BENCH='--tokens 8192'

`compress --domain` makes the family, widths alone, in --work; one that is there is scored as it is. Beside it
are Read-ME's masks: the FFN channels with the largest activations on the text of a domain, or on that of all,
as many in every layer as the latency table allows in the milliseconds of the general subnet. All are scored
on the same held-out windows. Writes JSON (build/bench/domains.json) and prints tables.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.domains.activation import masked, mean_activations, top_channels
from benchmarks.domains.table import table
from benchmarks.exit_status import exit_status
from benchmarks.quality.score import machine
from lathe.artefact.atomic_files import write_json
from lathe.artefact.family import FAMILY, is_family, read_family
from lathe.artefact.manifest import read_json
from lathe.artefact.plan import LayerShape, Plan
from lathe.compressor.calibration.amount import held_out
from lathe.compressor.compute.progress import Progress
from lathe.compressor.evaluate import quality
from lathe.compressor.latency.backend import backends
from lathe.compressor.latency.cache import cached_table
from lathe.compressor.latency.measure import LatencyBenchmark
from lathe.compressor.latency.profile import Profile
from lathe.compressor.latency.table import LatencyTable
from lathe.compressor.latency.workload import parse_factor
from lathe.compressor.model.checkpoint import Checkpoint, open_checkpoint
from lathe.compressor.model.reference import load_dense
from lathe.compressor.pipeline.checks import check_texts
from lathe.compressor.pipeline.domain_family import compress_domains
from lathe.compressor.pipeline.domains import DENSE, GENERAL
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.report.family_table import print_family
from lathe.compressor.search.space import make_space

Row = dict[str, Any]


def main() -> int:
    """Returns the exit status."""
    args = _arguments()
    return exit_status(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """Makes the family and the masks, scores them, and prints what was found.

    Raises:
        UserError: the model, a text or the target will not do.
    """
    progress = Progress()
    options = CompressOptions(
        model=args.model,
        out=args.work / "family",
        target_speedup=parse_factor(args.target_speedup),
        domain=tuple(args.domain),
        calibration_tokens=args.tokens,
        method=args.method,
        context=args.context,
        bits="16",
        profile=args.profile,
        seed=args.seed,
    )
    if not is_family(options.out):
        compress_domains(options, progress)
    print_family(options.out, Console())
    document = read_json(options.out / FAMILY)
    found = Masks.open(options, progress)
    rows = [*_subnets(options, found), *found.rows()]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "-m", "benchmarks.domains", *sys.argv[1:]])
    facts = {"unit": "nats per token", "machine": machine(), "family": document, "masks": found.shared()}
    write_json(args.out, {"command": command, **facts, "rows": rows})
    print(table(rows, found.shared(), document["domains"]["shared"]["channels"]))


def _subnets(options: CompressOptions, masks: Masks) -> Iterator[Row]:
    """Yields the rows of our subnets: the general one and the own one on the text of each domain."""
    family = read_family(options.out)
    loss = read_json(options.out / FAMILY)["domains"]["loss"]
    for plan in family.plans:
        ms = masks.latencies.predict(Plan.load(family.directory(plan) / "plan.json"))
        for domain in (plan.domain,) if plan.domain else loss[DENSE]:
            variant = "general subnet" if plan.name == GENERAL else "own subnet"
            yield _row(domain, variant, ms, loss[plan.name][domain], loss[DENSE][domain])


def _row(domain: str, variant: str, ms: float, loss: float, dense: float) -> Row:
    facts = {"domain": domain, "variant": variant, "table_ms": ms}
    return facts | {"loss": loss, "dense_loss": dense, "increase": loss - dense}


@dataclass(frozen=True)
class Masks:
    """Masks by activation in the milliseconds of a general subnet.

    Attributes:
        model: The dense model.
        latencies: The table of milliseconds.
        ms: What a masked model takes by it.
        heldout: Windows to score on, by domain.
        masks: [L, F] of each domain.
        of_all: [L, F] by the activations on all text.
    """

    model: Any
    latencies: LatencyTable
    ms: float
    heldout: Mapping[str, torch.Tensor]
    masks: Mapping[str, torch.Tensor]
    of_all: torch.Tensor

    @classmethod
    def open(cls, options: CompressOptions, progress: Progress) -> Masks:
        """Makes the masks from the text that the family was made from."""
        source = open_checkpoint(options.model)
        texts = check_texts(options, source, progress).domains
        windows = {name: text.windows for name, text in texts.items() if text.windows is not None}
        latencies = _latencies(options, source, progress)
        plan = Plan.load(read_family(options.out).path / "plans" / GENERAL / "plan.json")
        width, ms = _width(source, latencies, latencies.predict(plan))
        model = load_dense(source.path)
        with progress.stage("masks: activations", len(windows)) as bar:
            means = {}
            for name, found in windows.items():
                means[name] = mean_activations(model, found[~held_out(len(found))])
                bar.advance()
        return cls(
            model,
            latencies,
            ms,
            {name: found[held_out(len(found))] for name, found in windows.items()},
            {name: top_channels(mean, width) for name, mean in means.items()},
            top_channels(torch.stack([*means.values()]).mean(0), width),
        )

    def rows(self) -> Iterator[Row]:
        """Yields the rows of the masks of each domain, and of those of all text."""
        for domain, windows in self.heldout.items():
            dense = quality(self.model, windows).loss
            for variant, masks in (("own masks", self.masks[domain]), ("masks of all text", self.of_all)):
                with masked(self.model, masks) as model:
                    yield _row(domain, variant, self.ms, quality(model, windows).loss, dense)

    def shared(self) -> dict[str, int]:
        """Returns how many channels a domain keeps, and how many of these all domains keep."""
        stacked = torch.stack([*self.masks.values()])
        return {"kept": int(stacked[0].sum()), "core": int(stacked.all(0).sum())}


def _latencies(options: CompressOptions, source: Checkpoint, progress: Progress) -> LatencyTable:
    """Returns the table of the profile, or the kept one that the family was made by; else a new one."""
    workload = options.workload_on(source.positions)
    if options.profile:
        return Profile.load(options.profile).table(options.backend, source.shape, workload)
    benchmark = LatencyBenchmark(
        source,
        backends.get(options.backend),
        workload,
        options.threads,
        progress,
        options.measure_seconds,
    )
    return cached_table(benchmark, make_space(source.shape), refresh=False)


def _width(source: Checkpoint, latencies: LatencyTable, most: float) -> tuple[int, float]:
    """Returns the largest width of all FFNs that takes no more milliseconds, attention whole, and those.

    If none does, it is the smallest one: the milliseconds in the table tell.
    """
    dense, depth = source.shape.layer, source.shape.num_layers
    widths = sorted(filter(None, make_space(source.shape).widths), reverse=True)
    taken = [
        latencies.predict(Plan((LayerShape(dense.query_heads, dense.kv_heads, width),) * depth))
        for width in widths
    ]
    at = next((index for index, ms in enumerate(taken) if ms <= most), len(widths) - 1)
    return widths[at], taken[at]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.domains",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, help="a checkpoint's directory")
    add("--domain", required=True, action="append", metavar="NAME=TEXT", help="as of `compress`")
    add("--target-speedup", default="1.5x", help="[%(default)s]")
    add("--tokens", type=int, default=8192, help="of calibration text for each domain [%(default)s]")
    add("--method", default="quick", help="of `compress` [%(default)s]")
    add("--context", type=int, help="tokens in the cache that is timed [that of `compress`]")
    add("--profile", type=Path, help="latencies of `lathe profile`; another machine's are not measured here")
    add("--seed", type=int, default=0, help="[%(default)s]")
    add("--work", type=Path, default=Path("build/bench/domains"), help="for the family [%(default)s]")
    add("--out", type=Path, default=Path("build/bench/domains.json"), help="the document [%(default)s]")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
