"""`lathe plan MODEL`: the dry run, and the advice whether to prune, quantize, or both."""

from __future__ import annotations

from typing import Annotated

import typer

from lathe.artefact.command_options import command_of
from lathe.compressor.cli.common import emit
from lathe.compressor.pipeline.plan_options import PlanOptions


@command_of(PlanOptions)
def plan(
    options: PlanOptions,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout; no progress.")] = False,
) -> None:
    """Forecast what compressing MODEL would give and need, and advise whether to prune, quantize or both.

    Writes nothing. Feasibility: the dense model and the smallest subnet, measured here. Forecast for the
    targets: size, a range of quality, memory and time of the run. Advice: which mixture of widths and bits
    `compress` would come to at 1.5x to 6x, and what it costs. With --no-latency or --bits 16 it is by bytes
    instead: for several sizes of the decoder's weights, each way to reach the size is tried on the model and
    ranked by KL to dense; weights are then rounded to nearest. 4,096 to 16,384 calibration tokens are read,
    by the model's width.

    Examples:
      lathe plan ./my-llama --target-speedup 1.5x --calibration notes.txt

      lathe plan ./my-llama --no-latency

      lathe plan --config run.yaml   # run.yaml: {model: ./my-llama, target-speedup: 1.5x}
    """
    from rich.console import Console

    from lathe.compressor.compute.progress import Progress
    from lathe.compressor.pipeline.advise import advise
    from lathe.compressor.report.mixtures_table import print_mixtures
    from lathe.compressor.report.terminal import print_advice, print_forecast, print_preflight

    advice = advise(options.compression(), Progress(quiet=json))
    if json:
        emit(advice)
        return
    console = Console()
    print_preflight(advice["card"], console)
    print_forecast(advice["forecast"], console)
    (print_mixtures if advice["mixtures"] else print_advice)(advice, console)
