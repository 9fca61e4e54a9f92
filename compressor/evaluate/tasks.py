"""Task accuracy by lm-evaluation-harness (the `eval` extra), for dense checkpoints and artefacts."""

from __future__ import annotations

import difflib
import logging
import sys
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lathe.artefact.errors import UserError
from lathe.compressor.compute.device import CPU
from lathe.compressor.evaluate.compare import load_model, load_tokenizer
from lathe.compressor.evaluate.onnx import OnnxModel

_ROWS = 4
_BOOTSTRAP = 1000


@dataclass(frozen=True)
class Tasks:
    """Tasks that exist.

    Attributes:
        names: The names of lm-eval's tasks, groups and tags.
        manager: lm-eval's task manager.
        directory: The directory with tasks of the user's own.
    """

    names: list[str]
    manager: Any
    directory: Path | None

    @classmethod
    def open(cls, names: str, directory: Path | None) -> Tasks:
        """Finds tasks by comma-separated names, `*` allowed, in lm-eval and in a directory of YAML files.

        Raises:
            UserError: lm-eval is not installed, the directory is not there, or a task is in neither.
        """
        if directory and not directory.is_dir():
            raise UserError(f"there is no task directory {directory}")
        directory = directory.resolve() if directory else None
        try:
            import lm_eval.models.huggingface  # noqa: F401
            from lm_eval.tasks import TaskManager
        except ImportError as error:
            raise UserError(
                f"--tasks needs lm-eval, and `{error.name}` is not installed", "pip install 'lathe[eval]'"
            ) from None
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        manager = TaskManager(include_path=str(directory) if directory else None)
        found = []
        for name in filter(None, (part.strip() for part in names.split(","))):
            matched = manager.match_tasks([name])
            if not matched:
                near = ", ".join(difflib.get_close_matches(name, manager.all_tasks, 3))
                raise UserError(
                    f"there is no task `{name}`",
                    f"Did you mean {near}?" if near else "See `lm-eval ls tasks`.",
                )
            found += matched
        return cls(found, manager, directory)

    def run(self, model: str, device: torch.device = CPU) -> dict[str, dict[str, float]]:
        """Returns the metrics of each task and group by name, with standard errors as NAME_stderr.

        Data files that a task names are looked up in its directory.

        Raises:
            UserError: a model cannot be loaded, or a task cannot be run, for example without its data.
        """
        from lm_eval.models.huggingface import HFLM

        loaded = load_model(model, device)
        if isinstance(loaded, OnnxModel):
            raise UserError(
                f"{model} is an ONNX graph only, which lm-eval cannot load",
                "Serve it, and point lm-eval's local-completions at it.",
            )
        harness = HFLM(pretrained=loaded, tokenizer=load_tokenizer(model), batch_size=_ROWS)
        return self.score(harness, model)

    def score(self, harness: Any, model: str, limit: int | None = None) -> dict[str, dict[str, float]]:
        """Returns the same of any model that lm-eval can ask.

        Args:
            harness: The model, an `lm_eval.api.model.LM`.
            model: Its name in messages.
            limit: How many items of each task are run; None: all.

        Raises:
            UserError: a task cannot be run.
        """
        from lm_eval import simple_evaluate

        try:
            with redirect_stdout(sys.stderr), chdir(self.directory or "."):
                results = simple_evaluate(
                    harness,
                    tasks=self.names,
                    task_manager=self.manager,
                    limit=limit,
                    bootstrap_iters=_BOOTSTRAP,
                    log_samples=False,
                )
        except Exception as error:
            reason = str(error).strip() or type(error).__name__
            raise UserError(f"lm-eval cannot run {', '.join(self.names)} on {model}: {reason}") from error
        return {task: _numbers(metrics) for task, metrics in (results or {})["results"].items()}


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """Renames lm-eval's "acc,none" to "acc", and "acc,filter" to "acc (filter)"."""
    found = {}
    for key, value in metrics.items():
        name, _, filtered = key.partition(",")
        if filtered and isinstance(value, (int, float)):
            found[name if filtered == "none" else f"{name} ({filtered})"] = float(value)
    return found
