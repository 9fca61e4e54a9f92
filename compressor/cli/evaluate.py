"""`lathe evaluate MODEL... --text FILE --tasks NAMES`: compares models by the same code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from lathe.artefact.command_options import Argument, Option, command_of
from lathe.artefact.errors import UserError
from lathe.compressor.cli.common import emit

_TEXT, _TASKS = "Perplexity", "Tasks"


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """The options of `lathe evaluate`."""

    models: Annotated[
        tuple[str, ...], Argument(help="Checkpoint directories (dense, artefacts, or both) and GGUF files.")
    ]
    text: Annotated[
        str | None, Option(help="A file, a folder or a data set (name:configuration:split).", panel=_TEXT)
    ] = None
    window: Annotated[
        int,
        Option(
            help="Tokens per window; 0: the models' shortest context, at most 2048. Windows do not overlap.",
            panel=_TEXT,
        ),
    ] = 0
    windows: Annotated[int, Option(help="Windows at most; 0 takes all.", panel=_TEXT)] = 0
    against: Annotated[
        str | None,
        Option(
            help="The dense model: adds KL(dense || model), and how often the likeliest tokens agree.",
            panel=_TEXT,
        ),
    ] = None
    tasks: Annotated[
        str | None,
        Option(help="lm-eval tasks, such as arc_easy,piqa. Needs lathe[eval].", panel=_TASKS),
    ] = None
    task_dir: Annotated[
        Path | None,
        Option(help="A directory with tasks of your own: YAML files, with their JSONL files.", panel=_TASKS),
    ] = None
    served: Annotated[
        bool,
        Option(
            flags=("--served",),
            help="Score the ONNX graph of an artefact that has one, or a GGUF file in llama.cpp, with the "
            "bits that it is served in.",
            panel=_TEXT,
        ),
    ] = False
    device: Annotated[
        str, Option(help="Where models run: cpu, cuda or cuda:1. ONNX graphs run on the processor.")
    ] = "cpu"

    def __post_init__(self) -> None:
        if not self.text and not self.tasks:
            raise UserError("nothing to evaluate on is given", "Give --text, --tasks or both.")
        if self.against and not self.text:
            raise UserError("--against compares on a text", "Give --text.")
        if self.served and not self.text:
            raise UserError("--served scores on a text", "Give --text.")
        if self.task_dir and not self.tasks:
            raise UserError("--task-dir alone runs nothing", "Give --tasks.")
        if min(self.window, self.windows) < 0:
            raise UserError("--window and --windows are numbers from 0", "Leave them out, or give more.")


@command_of(EvaluateOptions)
def evaluate(
    options: EvaluateOptions,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Measure perplexity, closeness to the dense model, and task accuracy, in float32.

    An artefact's checkpoint is scored; with --served its ONNX graph, as ONNX Runtime serves it, or its GGUF
    file, as llama.cpp does, which a file that is given by itself is scored in, too. Those that have no
    checkpoint (`lathe export --quantize`) are scored so in any case.

    Perplexity follows the published protocol: the text's documents are joined by an empty line and tokenised
    once; windows do not overlap; the loss is the mean over all predicted tokens.

    Examples:
      lathe evaluate ./my-llama out --text heldout.txt --against ./my-llama

      lathe evaluate ./my-llama out --tasks arc_easy,piqa
    """
    from lathe.artefact.shipped_files import warn_if_stale
    from lathe.compressor.compute.device import out_of_memory_as_user_error, parse_device
    from lathe.compressor.evaluate.compare import check_checkpoint
    from lathe.compressor.evaluate.tasks import Tasks
    from lathe.compressor.model.gguf import directory_of

    where = parse_device(options.device)
    places = {model: directory_of(model) for model in options.models}
    for place in places.values():
        check_checkpoint(place)
        warn_if_stale(Path(place))
    harness = Tasks.open(options.tasks, options.task_dir) if options.tasks else None
    rows: list[dict[str, Any]] = [{"model": model} for model in options.models]
    with out_of_memory_as_user_error(where, "Leave --device out, or free it."):
        if options.text:
            _score(rows, options, options.text, [*places.values()], json)
        if harness:
            for row in rows:
                row["tasks"] = harness.run(places[row["model"]], where)
                _say(_accuracies(row), json)
    if json:
        emit(rows)


def _score(
    rows: list[dict[str, Any]], options: EvaluateOptions, text: str, places: list[str], quiet: bool
) -> None:
    """Adds each model's scores on a text; a model is called what it was given as, not by its place."""
    from lathe.artefact.gguf_suffix import is_gguf
    from lathe.compressor.compute.device import parse_device
    from lathe.compressor.compute.progress import Progress
    from lathe.compressor.evaluate.compare import scores
    from lathe.compressor.model.gguf import directory_of

    pairs = zip(options.models, places, strict=True)
    files = {place: Path(model) for model, place in pairs if is_gguf(model)}
    scored = scores(
        places,
        text,
        options.window,
        options.windows,
        directory_of(options.against) if options.against else None,
        parse_device(options.device),
        Progress(quiet=quiet),
        files if options.served else None,
    )
    for model, row, found in zip(options.models, rows, scored, strict=True):
        named = {"model": model, "against": options.against}
        row |= found | {key: named[key] for key in named.keys() & found.keys()}
        _say(_quality(row), quiet)


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
