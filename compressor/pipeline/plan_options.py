"""The options of `plan`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from lathe.artefact.command_options import Option
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.shared_options import SharedOptions


@dataclass(frozen=True, kw_only=True)
class PlanOptions(SharedOptions):
    """The options of `lathe plan`."""

    latency: Annotated[bool, Option(help="Measure the dense model and the smallest subnet.")] = True

    def compression(self) -> CompressOptions:
        """Returns the compression that is planned; without a target it is a `--front` over all latencies."""
        from lathe.compressor.latency.backend import backends

        self.refuse_several("lathe plan")
        targeted = bool(self.target_latency_ms or self.target_speedup)
        timed = self.latency or targeted
        shared = {field.name: getattr(self, field.name) for field in fields(SharedOptions)}
        return CompressOptions(
            **shared
            | {
                "out": Path("plan"),
                "keep": self.keep if self.keep or timed else 1.0,
                "front": timed and not targeted,
                "export": tuple(
                    dict.fromkeys(["checkpoint", *([backends.get(self.engine).export] if timed else [])])
                ),
            }
        )
