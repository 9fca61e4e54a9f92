"""`lathe plan MODEL`: cut, quantize, or both."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compressor.cli.common import emit


def plan(
    model: Annotated[str, typer.Argument(help="A Hugging Face checkpoint directory, or a hub name.")],
    calibration: Annotated[
        str, typer.Option(help="Files or folders (with commas: equal shares), a data set, or `self`.")
    ] = "self",
    calibration_tokens: Annotated[int, typer.Option(help="How much of it is used.")] = 16_384,
    seed: Annotated[int, typer.Option(help="Of the calibration text.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout; no progress.")] = False,
) -> None:
    """Tell when to cut MODEL, when to quantize it, and when to do both; writes nothing.

    For several sizes of the decoder's weights, each way of getting there is tried on the model itself and
    judged by KL against dense, best first. Quantized weights are rounded to nearest.

    Example: lathe plan ./my-llama --calibration notes.txt
    """
    from rich.console import Console

    from compressor.pipeline.advise import advise
    from compressor.pipeline.options import Options
    from compressor.progress import Progress
    from compressor.report.terminal import print_advice

    options = Options(
        model=model, out=Path("plan"), keep=1.0, exports=("checkpoint",), calibration=calibration,
        calibration_tokens=calibration_tokens, seed=seed,
    )  # fmt: skip
    advice = advise(options, Progress(quiet=json))
    if json:
        emit(advice)
    else:
        print_advice(advice, Console())
