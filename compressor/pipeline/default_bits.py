"""The default of `--bits`: a search for the bits of each block, for a target that rounding helps to meet."""

from __future__ import annotations

from dataclasses import replace

from lathe.artefact.errors import UserError
from lathe.compressor.model.checkpoint import Checkpoint, open_checkpoint
from lathe.compressor.pipeline.checks import check_output, width_rules
from lathe.compressor.pipeline.compress_fields import OF_WIDTHS
from lathe.compressor.pipeline.option_values import AUTO_BITS, GENAI
from lathe.compressor.pipeline.options import CompressOptions

FAMILY_BITS = "8"
"""Of all subnets of a family: rows of 8 bits are shared, and rounding to them loses next to nothing."""
_EXPORTS = {"onnx": {"checkpoint", "onnx"}, "llamacpp": {"checkpoint", "gguf"}}
"""What is written, by the engine that runs it."""


def with_default_bits(options: CompressOptions) -> CompressOptions:
    """Returns the options with `--bits auto`, or 8 for a family, where that is the default; else unchanged.

    It is where the target is one of latency or memory alone, nothing is said of how weights are stored, and
    the model has an ONNX graph or a GGUF file with bits by block. Reads no weights. A model that cannot be
    opened keeps its options, for preflight to say why.

    Raises:
        UserError: the output will not do, which is found before a model is fetched.
    """
    if not _open(options):
        return options
    check_output(options)
    try:
        source = open_checkpoint(options.model)
    except UserError:
        return options
    if not rounds_by_default(options, source):
        return options
    return _with_bits(options)


def _with_bits(options: CompressOptions) -> CompressOptions:
    return replace(options, bits=FAMILY_BITS if options.several_targets else AUTO_BITS)


def rounds_by_default(options: CompressOptions, source: Checkpoint) -> bool:
    """Returns whether `compress` searches for the bits of each block of a model by default."""
    return _open(options) and may_round(options, source)


def may_round(options: CompressOptions, source: Checkpoint) -> bool:
    """Returns whether nothing is said of how weights are stored, and the graph or file has bits by block."""
    if not _unsaid(options):
        return False
    try:
        width_rules(_with_bits(options), source).check(source.shape.dense_plan, source.name)
    except UserError:
        return False
    return True


def _open(options: CompressOptions) -> bool:
    """Returns whether options leave the bits open: by what they ask for, and by all that they do not say."""
    targeted = options.timed or options.target_memory is not None
    return targeted and not options.open_ended and _unsaid(options)


def _unsaid(options: CompressOptions) -> bool:
    """Returns whether options say nothing that decides how weights are stored."""
    said = (options.bits, options.quantize, options.profile, options.keep, options.plan, options.pattern)
    return (
        all(value is None for value in said)
        and not options.destinations
        and options.tensor_parallel == 1
        and {*options.exports} - {GENAI} == _EXPORTS.get(options.engine)
        and options.method not in OF_WIDTHS
    )
