"""The registry of a server of ours, and what it tells of its process."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from lathe.serving.metrics.families import Families, Target
from lathe.serving.metrics.gpu import GpuMemory
from lathe.serving.metrics.vllm_names import VllmAlias


class Exposition:
    """What a scrape gets.

    Attributes:
        registry: of this server.
        families: those of its models.
    """

    def __init__(self, targets: Iterable[Target], alias: str | None = None) -> None:
        """Creates the registry.

        Args:
            targets: those of all models.
            alias: names a server under whose names common metrics are reported, too.
        """
        self.registry = CollectorRegistry()
        self.families = Families(self.registry, targets)
        self._aliases = CollectorRegistry()
        if alias is not None:
            self._aliases.register(VllmAlias(self.registry, alias))
        self.registry.register(GpuMemory())
        ProcessCollector(registry=self.registry)

    def render(self) -> bytes:
        """Returns the metrics in the text exposition format."""
        return generate_latest(self.registry) + generate_latest(self._aliases)
