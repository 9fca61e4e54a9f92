"""The options of `compress`, checked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass

from lathe.compressor.pipeline.derived_options import DerivedOptions
from lathe.compressor.pipeline.option_checks import check_options


@dataclass(frozen=True, kw_only=True)
class CompressOptions(DerivedOptions):
    """One compression, as the options of `compress` describe it.

    A field has its option's name, with underscores, but for five: `target_latency_ms` is --target-latency,
    `perplexity_increase` --max-perplexity-increase, `engine` --backend, `destinations` --for, and `out`
    --output. `rounds`, the iterations of search and measurement at most, has no option.
    """

    def __post_init__(self) -> None:
        check_options(self)
