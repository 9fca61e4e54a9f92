"""Runs `lathe loadtest` once its options are read: measures, prints and writes."""

from __future__ import annotations

import json
from typing import Any

import typer

from lathe.artefact.errors import UserError
from lathe.serving.loadtest import capacity_report, report
from lathe.serving.loadtest.compare import compare, run
from lathe.serving.loadtest.document import write_document
from lathe.serving.loadtest.find_capacity import find_capacity
from lathe.serving.loadtest.options import LoadTestOptions
from lathe.serving.loadtest.page.html import write_page
from lathe.serving.loadtest.slo import parse_slo


def carry_out(options: LoadTestOptions) -> None:
    """Measures, prints the report and writes the files.

    Raises:
        UserError: nothing could be measured, or, when all is written, if requests failed.
    """
    shown = capacity_report if options.searches else report
    result = _measured(options)
    if options.as_json:
        typer.echo(json.dumps(result, indent=1))
    else:
        shown.print_report(result)
    if options.output:
        write_document(result, options.output)
    if options.html:
        write_page(result, options.html)
    if failed := shown.failures(result):
        raise UserError(failed, "The numbers are of the other requests.")


def _measured(options: LoadTestOptions) -> dict[str, Any]:
    load, setup = options.load(), options.setup()
    rounds, target, dense = options.round_count, options.target, options.against
    slo = None if options.slo is None else parse_slo(options.slo, options.slo_share)
    if slo is not None and options.searches:
        places = {"server": target} if dense is None else {"dense": dense, "subnet": target}
        return find_capacity(places, load, slo, rounds=rounds, setup=setup)
    if dense is None:
        return run(target, load, rounds=rounds, setup=setup, slo=slo)
    return compare(target, dense, load, rounds=rounds, setup=setup, slo=slo)
