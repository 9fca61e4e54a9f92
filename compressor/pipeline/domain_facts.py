"""What a family of domains has besides its subnets: the router, and measurements of both."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lathe.artefact.router import Router, write_router
from lathe.artefact.tokenizer import open_tokenizer
from lathe.compressor.pipeline.domain_losses import DomainLosses, domain_losses
from lathe.compressor.pipeline.domains import GENERAL
from lathe.compressor.pipeline.family_parts import Subnet
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.pipeline.shared_units import shared_units
from lathe.compressor.routing.assess import assess
from lathe.compressor.routing.features import Vocabulary
from lathe.compressor.routing.train import train_router


@dataclass(frozen=True)
class DomainFacts:
    """The router, and what `family.json` says of the domains."""

    router: Router
    facts: Mapping[str, Any]

    def write(self, directory: Path) -> dict[str, Any]:
        """Writes the router to the family's directory; returns everything that `family.json` says."""
        return {"router": write_router(directory, self.router), "domains": self.facts}


def domain_facts(context: RunContext, subnets: Sequence[Subnet]) -> DomainFacts:
    """Scores all subnets on the held-out text of all domains, and trains and assesses the router.

    Args:
        context: The run.
        subnets: The general one first.
    """
    own = {subnet.domain: subnet for subnet in subnets if subnet.domain is not None}
    shape, calibrations = context.preflight.source.shape, {n: s.calibration for n, s in own.items()}
    heldout = {name: found.windows[found.heldout] for name, found in calibrations.items()}
    losses = domain_losses(context, subnets, heldout)
    router, trained = _trained(context, own, losses)
    facts = {
        "heldout_tokens": {name: windows.numel() for name, windows in heldout.items()},
        "loss": losses.to_json(),
        "shared": shared_units(shape, {name: s.iteration.selections for name, s in own.items()}),
        "routing": {**trained, **assess(router, heldout), "loss": losses.routed(router, heldout)},
    }
    return DomainFacts(router, facts)


def _trained(
    context: RunContext, domains: Mapping[str, Subnet], losses: DomainLosses
) -> tuple[Router, dict[str, float]]:
    """Returns the router, and what it was chosen by."""
    source, calibrations = context.preflight.source, {n: s.calibration for n, s in domains.items()}
    model = next(iter(calibrations.values())).model
    special = torch.tensor(open_tokenizer(source.path).all_special_ids, dtype=torch.int64)
    vocabulary = Vocabulary(model.embedding, source.shape.vocab_size, special)
    fitted = {name: found.windows[~found.heldout] for name, found in calibrations.items()}
    with context.progress.stage("train the router", 1) as bar:
        start = time.monotonic()
        trained = train_router(vocabulary, fitted, GENERAL, losses.matrix())
        seconds = time.monotonic() - start
        bar.advance()
    facts = {"ridge": trained.ridge, "cross_entropy": trained.cross_entropy, "seconds": seconds}
    return trained.router, facts
