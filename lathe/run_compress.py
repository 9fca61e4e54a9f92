"""`lathe.compress`."""

from __future__ import annotations

import sys
from typing import Any

from lathe.artefact.errors import UserError
from lathe.compressor.compute.progress import Progress
from lathe.compressor.pipeline.compress import compress as run
from lathe.compressor.pipeline.domain_family import compress_domains
from lathe.compressor.pipeline.family import compress_family
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.outcome import Outcome
from lathe.signature import with_fields_of


@with_fields_of(CompressOptions)
def compress(**options: Any) -> Outcome:
    """Compresses a model to its targets, as the command `compress` does.

    All targets that are given have to hold. A run that was interrupted resumes when it is called again with
    the same options. Progress is shown on stderr where that is a terminal.

    Args:
        **options: The fields of `lathe.compressor.pipeline.options.CompressOptions`, by name. Most runs need
            `model`, a checkpoint's directory or a name on the hub; `out`, the directory to write, a `Path`; a
            target; and `calibration`, files or folders of text separated by commas, or `self`. A target is
            `target_latency_ms` (milliseconds), `target_speedup` (a factor), `target_memory` (bytes) or `keep`
            (a share of the decoder's parameters, from 0 to 1). Several latencies or factors, in a tuple, make
            a family of nested subnets; `domain`, texts NAME=TEXT in a tuple, one of a subnet for each.

    Returns:
        What the run ended with: a status, the artefact's directory, and the report.

    Raises:
        UserError: the options contradict each other, the model is not supported, a target cannot be reached,
            or the artefact fails its checks. What was at `out` before is unchanged.
    """
    given = CompressOptions(**options)
    if given.front:
        raise UserError("`front` makes plans and no artefact", "Use `compress MODEL --front`.")
    job = compress_domains if given.domain else compress_family if given.several_targets else run
    return job(given, Progress(quiet=not sys.stderr.isatty()))
