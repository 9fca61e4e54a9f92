"""The options that say how a subnet is made and judged: those of `compress`, and of `lathe tune`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from lathe.artefact.byte_size import parse_bytes
from lathe.artefact.command_options import Option, words
from lathe.artefact.errors import UserError
from lathe.compressor.latency.effort import SECONDS
from lathe.compressor.pipeline.shared_options import RUN, TEXT, WORKLOAD, SharedOptions, unless_empty
from lathe.compressor.search.space import FFN_LEVELS


def parse_damping(text: str) -> float | None:
    """Returns the value of `--damping`; None for `auto`.

    Raises:
        UserError: it is not a number above zero.
    """
    if text == "auto":
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"--damping {text} is not a number above zero", "Give one such as 0.01, or auto.")
    return value


@dataclass(frozen=True, kw_only=True)
class RunFields(SharedOptions):
    """The fields of `CompressOptions` that say how a subnet is made and judged; `rounds` has no option."""

    export: Annotated[
        tuple[str, ...],
        Option(
            help="What is written beside the checkpoint: onnx, gguf or vllm, whichever is served and timed; "
            "genai writes onnx, too, and what onnxruntime-genai needs.",
            parser=words,
            panel=RUN,
        ),
    ] = ("checkpoint", "onnx")
    quantize: Annotated[
        str | None,
        Option(
            help="int8 or int4: weights of the ONNX graph or the GGUF file that is measured and served. With "
            "gguf also llama.cpp's own types, such as q8_0 or q4_k, rounded to nearest.",
            panel=RUN,
        ),
    ] = None
    group_size: Annotated[
        str,
        Option(
            help="Columns that share a scale in the ONNX graph's rounded weights: `auto`, what the error "
            "of each matrix allows; `adaptive`, by the range of its weights (FineQuant); 32, 64, 128 or 256, "
            "or the next fewer that fit a matrix.",
            panel=RUN,
        ),
    ] = "auto"
    kv_cache: Annotated[
        str | None,
        Option(
            help="int8: the ONNX graph that is measured and served keeps keys and values in 8 bits, in a "
            "quarter of the memory, by scales from the calibration text.",
            unset="float",
            panel=RUN,
        ),
    ] = None
    evaluation: Annotated[
        str | None,
        Option(
            help="Text for the reported perplexities: 32 windows spread over it.",
            unset="held-out calibration text",
            panel=TEXT,
        ),
    ] = None
    method: Annotated[
        str,
        Option(
            help="`lathe`; `fast`, with less reconstruction; `quick`, with the least; to compare, with that "
            "of `fast`, searches over masks, `policy-gradient` (arXiv 2406.10576), `gisp` "
            "(2510.18030) and `grasprune` (2604.19398), and evolutions from uniform widths, `evopress` "
            "(2410.14649) and `tyr` (2503.09657); `paper` (2409.17372) with its own; "
            "`auto`: `lathe` up to 30 M decoder parameters, else `fast`.",
            panel=RUN,
        ),
    ] = "auto"
    evaluations: Annotated[
        int | None,
        Option(
            help="The number of whole plans that the search evaluates; `lathe` then adds an evolutionary "
            "search. With `policy-gradient`, forward passes of 512 tokens; with `gisp` and `grasprune`, "
            "forward and backward passes.",
            unset="the method's own",
            panel=RUN,
        ),
    ] = None
    damping: Annotated[
        float | None,
        Option(
            help="The ridge that output projections are solved with, as a share of the mean square of what "
            "they read, such as 0.01.",
            parser=parse_damping,
            unset="of every projection, what errs least on held-out text",
            panel=RUN,
        ),
    ] = None
    ffn_levels: Annotated[
        int,
        Option(
            help="At most so many widths of each FFN are searched, 2 to 32: fewer are in wider steps, each "
            "twice the last.",
            panel=RUN,
        ),
    ] = FFN_LEVELS
    refinements: Annotated[
        int | None,
        Option(
            help="At most so many rounds refine the subnet as a whole; 0 leaves it as its blocks were "
            "reconstructed.",
            unset="the method's own",
            panel=RUN,
        ),
    ] = None
    tolerance: Annotated[
        float,
        Option(
            help="How far above the latency target the artefact may be measured, as a share of it.",
            panel=RUN,
        ),
    ] = 0.02
    rounds: int = 4
    measure_seconds: Annotated[
        float,
        Option(
            help="The time to measure the latency table in; a plan or an artefact gets half. Two loads of "
            "each model are timed in any case.",
            panel=WORKLOAD,
            recorded=False,
        ),
    ] = SECONDS
    memory_limit: Annotated[
        int | None,
        Option(
            help="Such as 8GiB: the most resident memory; what does not fit is kept on disk.",
            parser=unless_empty(parse_bytes),
            unit="B",
            panel=RUN,
            recorded=False,
        ),
    ] = None
    device: Annotated[
        str,
        Option(
            help="Where search and reconstruction compute: cpu, cuda or cuda:1. Latency is measured on "
            "--backend.",
            panel=RUN,
        ),
    ] = "cpu"
