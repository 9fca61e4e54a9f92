"""The loss of every subnet of a family of domains on the held-out text of every domain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from lathe.artefact.router import Router
from lathe.compressor.evaluate import quality
from lathe.compressor.model.reference import load_dense
from lathe.compressor.pipeline.domains import DENSE, GENERAL
from lathe.compressor.pipeline.family_parts import Subnet
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.pipeline.served_model import served_model


@dataclass(frozen=True)
class DomainLosses:
    """Losses in nats per token, as models are served.

    Attributes:
        windows: By model (dense, general, or a domain's subnet) and domain: the loss of each held-out window.
    """

    windows: Mapping[str, Mapping[str, Sequence[float]]]

    @property
    def domains(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.windows[DENSE])

    def mean(self, model: str, domain: str) -> float:
        """Returns the loss of a model on the text of a domain."""
        return fmean(self.windows[model][domain])

    def matrix(self) -> torch.Tensor:
        """Returns the losses of the general subnet (row 0) and each domain's on each domain, [1 + C, C]."""
        return torch.tensor(
            [[self.mean(model, one) for one in self.domains] for model in (GENERAL, *self.domains)]
        )

    def over(self, choose: Callable[[str, int], str]) -> float:
        """Returns the mean loss over domains of models that are chosen for windows.

        Args:
            choose: Maps a domain and the number of a window of it to the name of a model.
        """
        return fmean(
            fmean(self.windows[choose(one, at)][one][at] for at in range(len(self.windows[DENSE][one])))
            for one in self.domains
        )

    def routed(self, router: Router, heldout: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Returns the mean loss where the router chooses by each window's beginning, beside fixed choices.

        Args:
            router: The router.
            heldout: The windows [B, T] of each domain.
        """
        return {
            "dense": self.over(lambda _domain, _at: DENSE),
            "general": self.over(lambda _domain, _at: GENERAL),
            "automatic": self.over(lambda domain, at: router(heldout[domain][at].numpy()).plan),
            "oracle": self.over(lambda domain, _at: domain),
        }

    def to_json(self) -> dict[str, Any]:
        """Returns the means by model and domain."""
        return {model: {one: self.mean(model, one) for one in row} for model, row in self.windows.items()}


def domain_losses(
    context: RunContext, subnets: Sequence[Subnet], heldout: Mapping[str, torch.Tensor]
) -> DomainLosses:
    """Scores the dense model and all subnets on the held-out windows [B, T] of all domains."""
    runner, preflight = subnets[0].calibration.model.runner, context.preflight

    def opened(subnet: Subnet | None) -> Any:
        if subnet:
            return served_model(subnet.context, runner, subnet.iteration.plan, subnet.made.path)
        if preflight.memory.loads_whole:
            return load_dense(preflight.source.path)
        return subnets[0].calibration.model

    count = (1 + len(subnets)) * sum(map(len, heldout.values()))
    windows = {}
    with context.progress.stage("verify: subnets on the text of all domains", count) as bar:
        for subnet in (None, *subnets):
            model = opened(subnet)
            windows[subnet.name if subnet else DENSE] = {
                name: [quality(model, one[None], bar.advance).loss for one in text]
                for name, text in heldout.items()
            }
            del model
    return DomainLosses(windows)
