"""`lathe evaluate MODEL... --text FILE --tasks NAMES`: compares models by the same code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lathe.artefact.errors import UserError
from lathe.compressor.cli.common import emit

_TEXT, _TASKS = "Perplexity", "Tasks"


def evaluate(
    models: Annotated[list[str], typer.Argument(help="Checkpoint directories: dense, artefacts, or both.")],
    text: Annotated[
        str | None,
        typer.Option(
            help="A file, a folder or a data set (name:configuration:split).", rich_help_panel=_TEXT
        ),
    ] = None,
    window: Annotated[
        int,
        typer.Option(
            help="Tokens per window; 0: the models' shortest context, at most 2048. Windows do not overlap.",
            rich_help_panel=_TEXT,
        ),
    ] = 0,
    windows: Annotated[int, typer.Option(help="Windows at most; 0 takes all.", rich_help_panel=_TEXT)] = 0,
    against: Annotated[
        str | None,
        typer.Option(
            help="The dense checkpoint: adds KL(dense || model) and how often the likeliest tokens agree.",
            rich_help_panel=_TEXT,
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="lm-eval tasks, such as arc_easy,piqa. Needs lathe[eval].", rich_help_panel=_TASKS),
    ] = None,
    task_dir: Annotated[
        Path | None,
        typer.Option(
            help="A directory with tasks of your own: YAML files, with their JSONL files.",
            rich_help_panel=_TASKS,
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="Where models run: cpu, cuda or cuda:1. ONNX graphs run on the processor.")
    ] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Measure perplexity, closeness to the dense model, and task accuracy, in float32.

    Artefacts that are an ONNX graph only (`lathe export --quantize`) are scored as ONNX Runtime serves them.

    Perplexity follows the published protocol: the text's documents are joined by an empty line and tokenised
    once; windows do not overlap; the loss is the mean over all predicted tokens.

    Examples:
      lathe evaluate ./my-llama out --text heldout.txt --against ./my-llama

      lathe evaluate ./my-llama out --tasks arc_easy,piqa
    """
    from lathe.artefact.shipped_files import warn_if_stale
    from lathe.compressor.compute.device import out_of_memory_as_user_error, parse_device
    from lathe.compressor.compute.progress import Progress
    from lathe.compressor.evaluate.compare import check_checkpoint, scores
    from lathe.compressor.evaluate.tasks import Tasks

    _check(text, against, tasks, task_dir)
    if min(window, windows) < 0:
        raise UserError("--window and --windows are numbers from 0", "Leave them out, or give more.")
    where = parse_device(device)
    for model in models:
        check_checkpoint(model)
        warn_if_stale(Path(model))
    harness = Tasks.open(tasks, task_dir) if tasks else None
    rows: list[dict[str, Any]] = [{"model": model} for model in models]
    with out_of_memory_as_user_error(where, "Leave --device out, or free it."):
        if text:
            scored = scores(models, text, window, windows, against, where, Progress(quiet=json))
            for row, found in zip(rows, scored, strict=True):
                row |= found
                _say(_quality(row), json)
        if harness:
            for row in rows:
                row["tasks"] = harness.run(row["model"], where)
                _say(_accuracies(row), json)
    if json:
        emit(rows)


def _check(text: str | None, against: str | None, tasks: str | None, task_dir: Path | None) -> None:
    if not text and not tasks:
        raise UserError("nothing to evaluate on is given", "Give --text, --tasks or both.")
    if against and not text:
        raise UserError("--against compares on a text", "Give --text.")
    if task_dir and not tasks:
        raise UserError("--task-dir alone runs nothing", "Give --tasks.")


def _say(line: str, quiet: bool) -> None:
    if not quiet:
        typer.echo(line)


def _quality(row: dict[str, Any]) -> str:
    line = (
        f"{row['model']}: perplexity {row['perplexity']:.3f}, loss {row['loss']:.4f} nats/token "
        f"({row['tokens']:,} tokens, windows of {row['window']:,})"
    )
    if "kl" not in row:
        return line
    return line + (
        f"; against {row['against']}: KL {row['kl']:.4f} nats/token, same top token {row['agreement']:.1%}"
    )


def _accuracies(row: dict[str, Any]) -> str:
    return "\n".join(f"{row['model']}: {task} {_metrics(values)}" for task, values in row["tasks"].items())


def _metrics(metrics: dict[str, float]) -> str:
    errors = {name: f" ± {metrics[f'{name}_stderr']:.4f}" for name in metrics if f"{name}_stderr" in metrics}
    shown = [name for name in metrics if "_stderr" not in name]
    return ", ".join(f"{name} {metrics[name]:.4f}{errors.get(name, '')}" for name in shown)
