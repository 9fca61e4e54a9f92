"""The options of `compress`, checked before anything is read, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lathe.artefact.errors import UserError
from lathe.compressor.latency.effort import check_seconds
from lathe.compressor.latency.workload import FITTED_DEFAULTS, Workload, fitted
from lathe.compressor.pipeline.compress_fields import OF_ONE_BUDGET, OF_WIDTHS, CompressFields
from lathe.compressor.pipeline.domains import Domain, check_domains, parse_domains
from lathe.compressor.pipeline.family_targets import check_family, named_targets
from lathe.compressor.search.space import FFN_LEVELS

if TYPE_CHECKING:  # the command line is built where there is no PyTorch, too
    import torch

    from lathe.compressor.compute.workers.ray_config import RayConfig
    from lathe.compressor.model.groups import GroupRule
    from lathe.compressor.model.pattern import Pattern

WINDOW = 512
"""Tokens of a calibration or evaluation window, where the model has that many positions."""

AUTO_BITS = "auto"
SCHEMES = {AUTO_BITS: "mixed", "16": None, "8": "int8", "4": "int4"}
"""The scheme that each value of `--bits` stands for."""
GRAPHS = ("onnx", "gguf")
"""Exports that one run writes one of, and that may have weights rounded."""
FLOAT_CACHE, INT8_CACHE = KV_CACHES = ("float", "int8")
"""The values of `--kv-cache`."""
GENAI = "genai"
"""The exporter that adds to the ONNX graph."""
JOINT = "joint"
"""The default of `--pattern-method`."""
_WITH_PATTERN = (None, "int8", "int4")
"""Schemes that a pattern goes with."""
_BITS_OF_VLLM = (
    "For vLLM, `lathe export OUT --to vllm --quantize mixed --plan FILE` gives an artefact's blocks the bits "
    "of a plan; w4a16 and w8a8 are the same for all."
)


def check_kv_cache(name: str | None) -> None:
    """Checks what `--kv-cache` was given.

    Raises:
        UserError: there is no such cache.
    """
    if name is not None and name not in KV_CACHES:
        raise UserError(f"--kv-cache {name} is unknown", f"Choose of {', '.join(KV_CACHES)}.")


@dataclass(frozen=True, kw_only=True)
class CompressOptions(CompressFields):
    """One compression, as the options of `compress` describe it.

    A field has its option's name, with underscores, but for five: `target_latency_ms` is --target-latency,
    `perplexity_increase` --max-perplexity-increase, `engine` --backend, `destinations` --for, and `out`
    --output. `rounds`, the iterations of search and measurement at most, has no option.
    """

    def __post_init__(self) -> None:
        self._check_targets()
        check_family(self)
        check_domains(self)
        self._check_open_targets()
        self._check_bits()
        self._check_cache()
        self._check_exports()
        self._check_groups()
        self._check_pattern()
        self._check_numbers()
        self._check_place()

    def _check_targets(self) -> None:
        _ = self.workload
        if self.target_throughput is not None and (
            self.target_latency_ms is not None or self.latency_metric != "tpot"
        ):
            raise UserError("--target-throughput is a target of tpot", "Leave the other latency options out.")
        targets = [self.latency_limit_ms, self.target_speedup, self.target_memory, self.keep]
        given = [target for target in targets if target is not None]
        open_ended = self.front or self.perplexity_increase is not None
        if not (given or self.plan or open_ended or self.pattern):
            raise UserError(
                "no target is given",
                "Give --target-latency, --target-speedup, --target-memory, --keep, --plan or --pattern.",
            )
        if self.plan and (given or self.front or self.perplexity_increase):
            raise UserError("--plan says all widths, so no target goes with it", "Give one of the two.")

    def _check_open_targets(self) -> None:
        if self.open_ended and (self.latency_limit_ms or self.target_speedup):
            name = "--front" if self.front else "--max-perplexity-increase"
            raise UserError(f"{name} leaves the latency open", "Leave the latency target out.")
        if self.front and self.perplexity_increase is not None:
            raise UserError("--front is for every quality", "Leave --max-perplexity-increase out.")
        if self.method in OF_ONE_BUDGET and (self.open_ended or self.plan):
            name = "--plan" if self.plan else "--front" if self.front else "--max-perplexity-increase"
            raise UserError(
                f"--method {self.method} searches for one budget, and {name} gives it none",
                "Give a target of latency, memory or parameters, or leave --method out.",
            )
        if self.latency_limit_ms is not None and self.target_speedup is not None:
            raise UserError("--target-latency and --target-speedup exclude each other", "Give one of them.")

    def _check_bits(self) -> None:
        from lathe.compressor.export.one_bit import check_kernel

        check_kernel(self.quantize or "", f"--quantize {self.quantize}")
        check_kernel("b1" if self.bits == "1" else "", "--bits 1")
        if self.bits is not None and self.bits not in SCHEMES:
            raise UserError(f"--bits {self.bits} is unknown", f"Choose of {', '.join(SCHEMES)}.")
        if self.bits and self.quantize is not None and self.quantize != SCHEMES[self.bits]:
            raise UserError(f"--bits {self.bits} and --quantize {self.quantize} differ", "Give one of them.")
        if self.block_bits:
            self._check_searched_bits()
        elif self.scheme and "vllm" in (self.engine, *self.export):
            given = f"--bits {self.bits}" if self.bits else f"--quantize {self.quantize}"
            raise UserError(f"{given} is for the ONNX graph, not for vllm", f"Leave it out. {_BITS_OF_VLLM}")

    def _check_searched_bits(self) -> None:
        """Checks what goes with a search for the bits of each block."""
        from lathe.compressor.latency.backend import backends

        if _quantized(self.engine, self.scheme) not in backends.known():
            raise UserError(
                f"--bits {AUTO_BITS} is for ONNX Runtime and llama.cpp, not for --backend {self.engine}",
                f"Leave one of them out. {_BITS_OF_VLLM}"
                if self.engine == "vllm"
                else "Leave one of them out.",
            )
        if not {*GRAPHS, GENAI} & {*self.export}:
            raise UserError(
                f"--bits {AUTO_BITS} is for the ONNX graph or the GGUF file",
                "Add onnx or gguf to --export, or leave it out.",
            )
        if others := [name for name in self.export if name not in ("checkpoint", *GRAPHS, GENAI)]:
            raise UserError(
                f"--bits {AUTO_BITS} is for the ONNX graph or the GGUF file, not for {', '.join(others)}",
                _BITS_OF_VLLM if "vllm" in others else "Make that of the artefact, with `lathe export`.",
            )
        if self.method in OF_WIDTHS:
            raise UserError(f"--method {self.method} searches widths alone", "Leave --bits or --method out.")
        if self.keep is not None and not self.timed and self.target_memory is None:
            raise UserError(
                f"--keep counts parameters, and --bits {AUTO_BITS} keeps them all",
                "Give a target of latency or memory, too, or leave one of the two out.",
            )

    def _check_cache(self) -> None:
        from lathe.compressor.latency.backend import has_int8_cache

        check_kv_cache(self.kv_cache)
        if self.kv_cache == FLOAT_CACHE and has_int8_cache(self.engine):
            raise UserError(f"--kv-cache float and --backend {self.engine} differ", "Leave one of them out.")
        if self.int8_cache and not self.engine.startswith("onnx"):
            raise UserError(
                f"--kv-cache int8 is for ONNX Runtime, not for --backend {self.engine}",
                "Leave one of them out.",
            )
        if self.int8_cache and self.graph_kind != "onnx":
            raise UserError("--kv-cache int8 is for the ONNX graph", "Add onnx to --export, or leave it out.")

    def _check_exports(self) -> None:
        from lathe.compressor.latency.backend import backends

        if len(self._graphs) > 1:
            raise UserError(
                f"a run writes one graph for an engine, not {' and '.join(self._graphs)}",
                "Export one of them, and make the other with `lathe export`.",
            )
        if (self.timed or self.front) and not self.runs:
            export = backends.get(self.backend).export
            what = "--front" if self.front else "a latency target"
            raise UserError(f"{what} on {self.backend} needs that export", f"Add {export} to --export.")
        if self.profile and not self.timed:
            raise UserError("--profile is for a latency target", "Give --target-latency or --target-speedup.")
        if self.profile and self.vocabulary:
            raise UserError("--profile is of the whole vocabulary", "Leave --profile or --vocabulary out.")

    def _check_groups(self) -> None:
        from lathe.compressor.model.groups import BY_ERROR, check_group_size

        check_group_size(self.group_size)
        if self.graph_kind == "gguf" and self.group_size != str(BY_ERROR):
            raise UserError(
                f"--group-size {self.group_size} is not for GGUF, whose groups are of 32", "Leave it out."
            )
        if self.graph_kind == "gguf" or self.groups == BY_ERROR:
            return
        if not self.quantizes:
            raise UserError(
                f"--group-size {self.group_size} is for rounded weights of an ONNX graph",
                "Add --quantize int8 or int4, or --bits, or leave it out.",
            )
        if self.profile:
            raise UserError(
                f"the latencies of --profile are those of --group-size auto, not of {self.group_size}",
                "Leave one of the two out.",
            )

    def _check_pattern(self) -> None:
        if self.pattern is None:
            if self.pattern_method is not None:
                raise UserError("--pattern-method is for --pattern", "Give --pattern 2:4, or leave it out.")
            return
        from lathe.compressor.reconstruction.patterns.registry import pattern_methods

        _ = self.weight_pattern
        pattern_methods.get(self.pattern_method or JOINT)
        if self.open_ended:
            name = "--front" if self.front else "--max-perplexity-increase"
            raise UserError(
                f"{name} searches widths by what they lose without a pattern", "Leave --pattern or it out."
            )
        if self.scheme not in _WITH_PATTERN:
            given = f"--quantize {self.quantize}" if self.quantize else f"--bits {self.bits}"
            raise UserError(
                f"{given} and --pattern cannot be combined", "Give --quantize int8 or int4, which keep zeros."
            )

    @property
    def weight_pattern(self) -> Pattern | None:
        """The pattern that weights are pruned to, if any.

        Raises:
            UserError: it is none.
        """
        from lathe.compressor.model.pattern import Pattern

        return None if self.pattern is None else Pattern.parse(self.pattern)

    def _check_numbers(self) -> None:
        from lathe.compressor.calibration.amount import LEAST

        if self.threads is not None and self.threads < 1:
            raise UserError(f"--threads {self.threads} is not a number of threads")
        check_seconds(self.measure_seconds)
        if self.tensor_parallel < 1:
            raise UserError(
                f"--tensor-parallel {self.tensor_parallel} is not a number of devices", "Give at least 1."
            )
        if self.calibration_tokens < LEAST:
            raise UserError(
                f"--calibration-tokens {self.calibration_tokens} is too few", f"Give at least {LEAST}."
            )
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed {self.seed} is not a seed", "Give a whole number from 0.")
        if not 0 <= self.tolerance <= 1:
            raise UserError(f"--tolerance {self.tolerance} is not a share from 0 to 1")
        if self.evaluations is not None and self.evaluations < 1:
            raise UserError(f"--evaluations {self.evaluations} is too few", "Give at least 1.")
        if not 2 <= self.ffn_levels <= FFN_LEVELS:
            raise UserError(f"--ffn-levels {self.ffn_levels} is not a number from 2 to {FFN_LEVELS}")
        if self.refinements is not None and self.refinements < 0:
            raise UserError(f"--refinements {self.refinements} is not a number of rounds")

    def _check_place(self) -> None:
        from lathe.compressor.compute.device import CPU

        if self.worker_threads is not None and self.ray is None:
            raise UserError("--worker-threads is for workers", "Give --ray, or leave it out.")
        if self.where != CPU and self.ray is not None:
            raise UserError("--device is for a run of one process", "Leave it or --ray out.")
        if self.place and self.memory_limit:
            raise UserError("--memory-limit is for a run of one process", "Leave it or --ray out.")

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
    def plans(self) -> dict[str, CompressOptions]:
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
        return self.quantize or (SCHEMES[self.bits] if self.bits else None)

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
        return (8, 4) if self.scheme == SCHEMES[AUTO_BITS] else ()

    @property
    def backend(self) -> str:
        """The backend that is timed, by its name with the quantization and the KV cache.

        Where a run quantizes for another engine, the name has no quantization.
        """
        from lathe.compressor.latency.backend import backends, has_int8_cache, with_int8_cache

        name = _quantized(self.engine, self.scheme)
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
        return ("checkpoint", *(_quantized(name, self.scheme) for name in others))

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
        return next(iter(self._graphs), None)

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
    def _graphs(self) -> list[str]:
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


def _quantized(name: str, scheme: str | None) -> str:
    """Returns the exporter, or backend, of quantized weights that goes with one; a checkpoint has none."""
    return name if scheme is None or name == "checkpoint" else f"{name}-{scheme}"
