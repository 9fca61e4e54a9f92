"""From a plan to its artefact in the run directory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lathe.compressor.latency.comparison import Comparison
from lathe.compressor.pipeline.cache_scales import Scales, cache_scales
from lathe.compressor.pipeline.calibrate import CalibrationResult
from lathe.compressor.pipeline.export import export
from lathe.compressor.pipeline.latency_loop import Iteration
from lathe.compressor.pipeline.pattern import prune_to_pattern
from lathe.compressor.pipeline.reconstruct import reconstruct
from lathe.compressor.pipeline.round import round_layers
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.pipeline.verify import Verified, Verifier
from lathe.compressor.pipeline.wider_subnet import WiderSubnet


@dataclass(frozen=True)
class MadeArtefact:
    """A complete artefact in the run directory; it is timed and verified when that is asked for.

    One that turns out too slow is not verified any further.

    Attributes:
        path: Its directory.
        iteration: Its plan.
        scales: Those of an int8 KV cache.
        verifier: Times and verifies it.
        layers: What narrower subnets of its family take over.
    """

    path: Path
    iteration: Iteration
    scales: Scales | None
    verifier: Verifier
    layers: WiderSubnet

    @cached_property
    def timing(self) -> Comparison | None:
        return self.verifier.time(self.path)

    @cached_property
    def verified(self) -> Verified:
        return self.verifier(self.iteration, self.path, self.timing, self.scales)


@dataclass(frozen=True)
class ArtefactMaker:
    """Makes the artefact of a plan: reconstructs, prunes to a pattern, rounds and exports it.

    Attributes:
        context: The run.
        calibration: What it is calibrated with.
        verify: Times and verifies the artefact.
        place: The name of the artefact's directory in the run directory.
        wider: The next wider subnet of the family, for a narrower one.
    """

    context: RunContext
    calibration: CalibrationResult
    verify: Verifier
    place: str = "artefact"
    wider: WiderSubnet | None = None

    def __call__(self, iteration: Iteration) -> MadeArtefact:
        name = reconstruct(self.context, self.calibration, iteration, self.wider)
        name = prune_to_pattern(self.context, self.calibration, iteration, name)
        rounded = round_layers(self.context, self.calibration, iteration, name, self.wider)
        scales = cache_scales(self.context, self.calibration, name, rounded)
        path = export(self.context, iteration, name, rounded, scales, self.place)
        layers = WiderSubnet(iteration.selections, name, rounded)
        return MadeArtefact(path, iteration, scales, self.verify, layers)
