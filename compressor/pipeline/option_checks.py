"""What the options of `compress` exclude of each other, checked before anything is read."""

from __future__ import annotations

from lathe.artefact.errors import UserError
from lathe.compressor.latency.effort import check_seconds
from lathe.compressor.pipeline.compress_fields import OF_ONE_BUDGET, OF_WIDTHS
from lathe.compressor.pipeline.derived_options import DerivedOptions
from lathe.compressor.pipeline.domains import check_domains
from lathe.compressor.pipeline.family_targets import check_family
from lathe.compressor.pipeline.option_values import (
    AUTO_BITS,
    BIT_SCHEMES,
    FLOAT_CACHE,
    GENAI,
    GRAPHS,
    check_kv_cache,
    with_scheme,
)
from lathe.compressor.search.space import FFN_LEVELS

_WITH_PATTERN = (None, "int8", "int4")
"""Schemes that a pattern goes with."""
_BITS_OF_VLLM = (
    "For vLLM, `lathe export OUT --to vllm --quantize mixed --plan FILE` gives an artefact's blocks the bits "
    "of a plan; w4a16 and w8a8 are the same for all."
)


def check_options(options: DerivedOptions) -> None:
    """Checks that options go together and that their values are in range.

    Raises:
        UserError: one is not, or two exclude each other.
    """
    _check_targets(options)
    check_family(options)
    check_domains(options)
    _check_open_targets(options)
    _check_bits(options)
    _check_cache(options)
    _check_exports(options)
    _check_groups(options)
    _check_pattern(options)
    _check_numbers(options)
    _check_place(options)


def _check_targets(options: DerivedOptions) -> None:
    _ = options.workload
    if options.target_throughput is not None and (
        options.target_latency_ms is not None or options.latency_metric != "tpot"
    ):
        raise UserError("--target-throughput is a target of tpot", "Leave the other latency options out.")
    targets = [options.latency_limit_ms, options.target_speedup, options.target_memory, options.keep]
    given = [target for target in targets if target is not None]
    if not (given or options.plan or options.open_ended or options.pattern):
        raise UserError(
            "no target is given",
            "Give --target-latency, --target-speedup, --target-memory, --keep, --plan or --pattern.",
        )
    if options.plan and (given or options.front or options.perplexity_increase):
        raise UserError("--plan says all widths, so no target goes with it", "Give one of the two.")


def _check_open_targets(options: DerivedOptions) -> None:
    if options.open_ended and (options.latency_limit_ms or options.target_speedup):
        name = "--front" if options.front else "--max-perplexity-increase"
        raise UserError(f"{name} leaves the latency open", "Leave the latency target out.")
    if options.front and options.perplexity_increase is not None:
        raise UserError("--front is for every quality", "Leave --max-perplexity-increase out.")
    if options.method in OF_ONE_BUDGET and (options.open_ended or options.plan):
        name = "--plan" if options.plan else "--front" if options.front else "--max-perplexity-increase"
        raise UserError(
            f"--method {options.method} searches for one budget, and {name} gives it none",
            "Give a target of latency, memory or parameters, or leave --method out.",
        )
    if options.latency_limit_ms is not None and options.target_speedup is not None:
        raise UserError("--target-latency and --target-speedup exclude each other", "Give one of them.")


def _check_bits(options: DerivedOptions) -> None:
    from lathe.compressor.export.one_bit import check_kernel

    check_kernel(options.quantize or "", f"--quantize {options.quantize}")
    check_kernel("b1" if options.bits == "1" else "", "--bits 1")
    if options.bits is not None and options.bits not in BIT_SCHEMES:
        raise UserError(f"--bits {options.bits} is unknown", f"Choose of {', '.join(BIT_SCHEMES)}.")
    if options.bits and options.quantize is not None and options.quantize != BIT_SCHEMES[options.bits]:
        raise UserError(
            f"--bits {options.bits} and --quantize {options.quantize} differ", "Give one of them."
        )
    if options.block_bits:
        _check_searched_bits(options)
    elif options.scheme and "vllm" in (options.engine, *options.export):
        given = f"--bits {options.bits}" if options.bits else f"--quantize {options.quantize}"
        raise UserError(f"{given} is for the ONNX graph, not for vllm", f"Leave it out. {_BITS_OF_VLLM}")


def _check_searched_bits(options: DerivedOptions) -> None:
    """Checks what goes with a search for the bits of each block."""
    from lathe.compressor.latency.backend import backends

    if with_scheme(options.engine, options.scheme) not in backends.known():
        raise UserError(
            f"--bits {AUTO_BITS} is for ONNX Runtime and llama.cpp, not for --backend {options.engine}",
            f"Leave one of them out. {_BITS_OF_VLLM}"
            if options.engine == "vllm"
            else "Leave one of them out.",
        )
    if not {*GRAPHS, GENAI} & {*options.export}:
        raise UserError(
            f"--bits {AUTO_BITS} is for the ONNX graph or the GGUF file",
            "Add onnx or gguf to --export, or leave it out.",
        )
    if others := [name for name in options.export if name not in ("checkpoint", *GRAPHS, GENAI)]:
        raise UserError(
            f"--bits {AUTO_BITS} is for the ONNX graph or the GGUF file, not for {', '.join(others)}",
            _BITS_OF_VLLM if "vllm" in others else "Make that of the artefact, with `lathe export`.",
        )
    if options.method in OF_WIDTHS:
        raise UserError(f"--method {options.method} searches widths alone", "Leave --bits or --method out.")
    if options.keep is not None and not options.timed and options.target_memory is None:
        raise UserError(
            f"--keep counts parameters, and --bits {AUTO_BITS} keeps them all",
            "Give a target of latency or memory, too, or leave one of the two out.",
        )


def _check_cache(options: DerivedOptions) -> None:
    from lathe.compressor.latency.backend import has_int8_cache

    check_kv_cache(options.kv_cache)
    if options.kv_cache == FLOAT_CACHE and has_int8_cache(options.engine):
        raise UserError(f"--kv-cache float and --backend {options.engine} differ", "Leave one of them out.")
    if options.int8_cache and not options.engine.startswith("onnx"):
        raise UserError(
            f"--kv-cache int8 is for ONNX Runtime, not for --backend {options.engine}",
            "Leave one of them out.",
        )
    if options.int8_cache and options.graph_kind != "onnx":
        raise UserError("--kv-cache int8 is for the ONNX graph", "Add onnx to --export, or leave it out.")


def _check_exports(options: DerivedOptions) -> None:
    from lathe.compressor.latency.backend import backends

    if len(options.graphs) > 1:
        raise UserError(
            f"a run writes one graph for an engine, not {' and '.join(options.graphs)}",
            "Export one of them, and make the other with `lathe export`.",
        )
    if (options.timed or options.front) and not options.runs:
        export = backends.get(options.backend).export
        what = "--front" if options.front else "a latency target"
        raise UserError(f"{what} on {options.backend} needs that export", f"Add {export} to --export.")
    if options.profile and not options.timed:
        raise UserError("--profile is for a latency target", "Give --target-latency or --target-speedup.")
    if options.profile and options.vocabulary:
        raise UserError("--profile is of the whole vocabulary", "Leave --profile or --vocabulary out.")


def _check_groups(options: DerivedOptions) -> None:
    from lathe.compressor.model.groups import BY_ERROR, check_group_size

    check_group_size(options.group_size)
    if options.graph_kind == "gguf" and options.group_size != str(BY_ERROR):
        raise UserError(
            f"--group-size {options.group_size} is not for GGUF, whose groups are of 32", "Leave it out."
        )
    if options.graph_kind == "gguf" or options.groups == BY_ERROR:
        return
    if not options.quantizes:
        raise UserError(
            f"--group-size {options.group_size} is for rounded weights of an ONNX graph",
            "Add --quantize int8 or int4, or --bits, or leave it out.",
        )
    if options.profile:
        raise UserError(
            f"the latencies of --profile are those of --group-size auto, not of {options.group_size}",
            "Leave one of the two out.",
        )


def _check_pattern(options: DerivedOptions) -> None:
    if options.pattern is None:
        if options.pattern_method is not None:
            raise UserError("--pattern-method is for --pattern", "Give --pattern 2:4, or leave it out.")
        return
    from lathe.compressor.reconstruction.patterns.registry import pattern_methods

    _ = options.weight_pattern
    pattern_methods.get(options.pattern_rule)
    if options.open_ended:
        name = "--front" if options.front else "--max-perplexity-increase"
        raise UserError(
            f"{name} searches widths by what they lose without a pattern", "Leave --pattern or it out."
        )
    if options.scheme not in _WITH_PATTERN:
        given = f"--quantize {options.quantize}" if options.quantize else f"--bits {options.bits}"
        raise UserError(
            f"{given} and --pattern cannot be combined", "Give --quantize int8 or int4, which keep zeros."
        )


def _check_numbers(options: DerivedOptions) -> None:
    from lathe.compressor.calibration.amount import LEAST

    if options.threads is not None and options.threads < 1:
        raise UserError(f"--threads {options.threads} is not a number of threads")
    check_seconds(options.measure_seconds)
    if options.tensor_parallel < 1:
        raise UserError(
            f"--tensor-parallel {options.tensor_parallel} is not a number of devices", "Give at least 1."
        )
    if options.calibration_tokens < LEAST:
        raise UserError(
            f"--calibration-tokens {options.calibration_tokens} is too few", f"Give at least {LEAST}."
        )
    if not 0 <= options.seed < 2**63:
        raise UserError(f"--seed {options.seed} is not a seed", "Give a whole number from 0.")
    if not 0 <= options.tolerance <= 1:
        raise UserError(f"--tolerance {options.tolerance} is not a share from 0 to 1")
    if options.evaluations is not None and options.evaluations < 1:
        raise UserError(f"--evaluations {options.evaluations} is too few", "Give at least 1.")
    if not 2 <= options.ffn_levels <= FFN_LEVELS:
        raise UserError(f"--ffn-levels {options.ffn_levels} is not a number from 2 to {FFN_LEVELS}")
    if options.refinements is not None and options.refinements < 0:
        raise UserError(f"--refinements {options.refinements} is not a number of rounds")


def _check_place(options: DerivedOptions) -> None:
    from lathe.compressor.compute.device import CPU

    if options.worker_threads is not None and options.ray is None:
        raise UserError("--worker-threads is for workers", "Give --ray, or leave it out.")
    if options.where != CPU and options.ray is not None:
        raise UserError("--device is for a run of one process", "Leave it or --ray out.")
    if options.place and options.memory_limit:
        raise UserError("--memory-limit is for a run of one process", "Leave it or --ray out.")
