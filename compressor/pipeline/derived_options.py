"""What follows from the options of `compress`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from lathe.compressor.latency.workload import FITTED_DEFAULTS, Workload, fitted
from lathe.compressor.pipeline.compress_fields import CompressFields
from lathe.compressor.pipeline.domains import Domain, parse_domains
from lathe.compressor.pipeline.family_targets import named_targets
from lathe.compressor.pipeline.option_values import (
    AUTO_BITS,
    BIT_SCHEMES,
    GENAI,
    INT8_CACHE,
    JOINT,
    with_scheme,
)

if TYPE_CHECKING:  # the command line is built where there is no PyTorch, too
    import torch

    from lathe.compressor.compute.workers.ray_config import RayConfig
    from lathe.compressor.model.groups import GroupRule
    from lathe.compressor.model.pattern import Pattern


@dataclass(frozen=True, kw_only=True)
class DerivedOptions(CompressFields):
    """The options of one compression, not checked, with what follows from them."""

    @property
    def weight_pattern(self) -> Pattern | None:
        """The pattern that weights are pruned to, if any.

        Raises:
            UserError: it is none.
        """
        from lathe.compressor.model.pattern import Pattern

        return None if self.pattern is None else Pattern.parse(self.pattern)

    @property
    def pattern_rule(self) -> str:
        """The name of what chooses the weights of a pattern and corrects the others."""
        return self.pattern_method or JOINT

    @property
    def latency_limit_ms(self) -> float | None:
        """The latency target; of several the smallest.

        A target throughput is one of tpot, because every step gives each sequence one token.
        """
        if self.target_throughput is not None:
            return 1e3 * self.batch_size / self.target_throughput
        limits = self.target_latency_ms
        return min(limits) if isinstance(limits, tuple) else limits

    @property
    def speedup(self) -> float | None:
        """The target over the dense model; of several the largest."""
        factors = self.target_speedup
        return max(factors) if isinstance(factors, tuple) else factors

    @property
    def plans(self) -> dict[str, Self]:
        """The options of each subnet of a family by its name, the widest first; empty for one target."""
        return {name: replace(self, **target) for name, target in named_targets(self).items()}

    @property
    def domains(self) -> tuple[Domain, ...]:
        """The domains that get a subnet of their own; none: there is one subnet for any text."""
        return parse_domains(self.domain)

    @property
    def fitted_tokens(self) -> int:
        """The tokens that a subnet is fitted on: of all domains together where each gives its share."""
        from lathe.compressor.calibration.tokens import SELF

        shares = len(self.domain) if self.calibration == SELF else 0
        return self.calibration_tokens * max(1, shares)

    @property
    def subnets(self) -> int:
        """The number of subnets that are made."""
        return max(1, len(self.plans), len(self.domain) + bool(self.domain))

    @property
    def scheme(self) -> str | None:
        """How weights of the graph are rounded, by the name that exporters and backends have it under."""
        return self.quantize or (BIT_SCHEMES[self.bits] if self.bits else None)

    @property
    def tightest_plan(self) -> str:
        """The name of a family's smallest subnet; empty for one target."""
        return next(reversed(self.plans), "")

    @property
    def groups(self) -> GroupRule:
        """What gives each matrix its group that is rounded: all groups of a GGUF file are of 32."""
        from lathe.compressor.model.groups import RULES

        return RULES["32" if self.graph_kind == "gguf" else self.group_size]

    @property
    def block_bits(self) -> tuple[int, ...]:
        """The bits that the search may round each block to, the most first; none where it searches widths."""
        return (8, 4) if self.scheme == BIT_SCHEMES[AUTO_BITS] else ()

    @property
    def backend(self) -> str:
        """The backend that is timed, by its name with the quantization and the KV cache.

        Where a run quantizes for another engine, the name has no quantization.
        """
        from lathe.compressor.latency.backend import backends, has_int8_cache, with_int8_cache

        name = with_scheme(self.engine, self.scheme)
        if name not in backends.known() and self.graph_kind not in ("", self.engine):
            name = self.engine
        added = self.kv_cache == INT8_CACHE and not has_int8_cache(self.engine)
        return with_int8_cache(name) if added else name

    @property
    def int8_cache(self) -> bool:
        """True if the KV cache of the graph is int8."""
        from lathe.compressor.latency.backend import has_int8_cache

        return self.kv_cache == INT8_CACHE or has_int8_cache(self.engine)

    @property
    def exports(self) -> tuple[str, ...]:
        """The exporters, by their names with the quantization.

        An artefact has a checkpoint in any case, and an ONNX graph where one adds to that.
        """
        others = [name for name in self.export if name not in ("checkpoint", GENAI)]
        if GENAI in self.export:
            others = [*dict.fromkeys([*others, "onnx"]), GENAI]
        return ("checkpoint", *(with_scheme(name, self.scheme) for name in others))

    def workload_on(self, positions: int) -> Workload:
        """Returns the workload on a model with so many positions.

        Raises:
            UserError: the given workload does not fit. A run that times and counts nothing reduces it to
                what fits.
        """
        required = self.runs or self.target_memory is not None
        return fitted(self.workload, positions, self.defaulted if required else FITTED_DEFAULTS)

    @property
    def place(self) -> RayConfig | None:
        """The workers that the work is distributed to."""
        from lathe.compressor.compute.workers.ray_config import parse_place

        return parse_place(self.ray, self.worker_threads) if self.ray is not None else None

    @property
    def where(self) -> torch.device:
        """The device that layers run and matrices are solved on."""
        from lathe.compressor.compute.device import parse_device

        return parse_device(self.device)

    @property
    def timed(self) -> bool:
        """True if a plan cannot be chosen without milliseconds."""
        latency = self.latency_limit_ms is not None or self.target_speedup is not None
        return latency or (self.open_ended and self.runs)

    @property
    def targeted(self) -> bool:
        """True if a target is given that plans are searched for."""
        return self.timed or self.open_ended or self.target_memory is not None or self.keep is not None

    @property
    def graph(self) -> str | None:
        """The one of `exports` that an engine besides vLLM runs: an ONNX graph or a GGUF file; or None."""
        return next(iter(self.graphs), None)

    @property
    def graph_kind(self) -> str:
        """What runs it: onnx, gguf, or nothing."""
        from lathe.compressor.export import exporters

        return exporters.get(self.graph).graph if self.graph else ""

    @property
    def quantizes(self) -> bool:
        """True if weights of the graph are quantized, all or those of some blocks."""
        from lathe.compressor.export import exporters

        return self.graph is not None and exporters.get(self.graph).quantizes

    @property
    def graphs(self) -> list[str]:
        """The exports that engines besides vLLM run; a run with more than one is refused."""
        from lathe.compressor.export import exporters

        return [name for name in self.exports if exporters.get(name).graph]

    @property
    def runs(self) -> bool:
        """True if the backend runs one of the exports."""
        from lathe.compressor.latency.backend import backends

        return backends.get(self.backend).export in self.exports

    @property
    def served(self) -> str:
        """The one of `exports` that is measured, else the last besides the checkpoint, else the backend's."""
        from lathe.compressor.latency.backend import backends

        others = [name for name in self.exports if name != "checkpoint"]
        return backends.get(self.backend).export if self.runs or not others else others[-1]

    @property
    def open_ended(self) -> bool:
        """True if the run looks for the latency instead of being given it."""
        return self.front or self.perplexity_increase is not None
