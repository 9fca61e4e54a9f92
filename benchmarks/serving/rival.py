"""What a rival is: where it is installed, which formats it has, how it is loaded. One file each in `rivals`.

Imported in every rival's own environment: nothing here or at the head of those files needs more than numpy.
Shapes: B sequences of a batch, S tokens of a prompt, V vocabulary.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lathe.artefact.registry import Registry

COLUMNS = ("fp32", "bf16", "int8", "int4")
"""What is compared: systems that store weights alike."""
ROUNDED = ("int8", "int4")


@dataclass(frozen=True)
class Job:
    """One system to load.

    model: a Hugging Face directory, float32, or an artefact. format: the rival's own word for a column. out:
    a place for the files that are made of it. batch, length: the most sequences, and tokens of each.
    """

    model: Path
    format: str
    out: Path
    threads: int
    batch: int
    length: int


class Engine(Protocol):
    """A loaded model.

    streamed_bytes: of weights that every decode step reads. kv_bytes: of the cache, per token of a sequence.
    """

    streamed_bytes: int
    kv_bytes: int

    def prefill(self, prompts: np.ndarray) -> np.ndarray:
        """Forget what was, read prompts int64 [B, S], and give the likeliest next tokens [B]."""
        ...

    def decode(self) -> np.ndarray:
        """Append the tokens given last; gives the likeliest next ones [B]."""
        ...

    @property
    def logits(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """Gives logits after prompts, or log-probabilities, float32 [B, V]; None: they are not to be had."""
        ...


@dataclass(frozen=True)
class Rival:
    """python: of its environment, from the root of the repository.

    formats: its name of a column's format. models: which it can run. make: writes what it loads from a job's
    model, and says where.
    """

    title: str
    python: str
    packages: tuple[str, ...]
    formats: Mapping[str, str]
    make: Callable[[Job], Path]
    load: Callable[[Path, Job], Engine]
    models: tuple[str, ...] = ("dense",)
    environment: Mapping[str, str] = field(default_factory=dict)


rivals: Registry[Rival] = Registry("rival", "benchmarks.serving.rivals")


def run(*command: str) -> None:
    """Run what makes a rival's files.

    Raises:
        RuntimeError: it failed; with the last line that it printed.
    """
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError((done.stdout.strip() or "it printed nothing").splitlines()[-1])


def read_config(model: Path) -> dict[str, Any]:
    return dict(json.loads((model / "config.json").read_text()))


def cached_values(config: Mapping[str, Any]) -> int:
    """Keys and values of one token in all layers of a Llama."""
    return int(2 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"])
