"""Models with random weights on disk, each only for as long as it is timed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lathe.artefact.plan import Plan
from lathe.compressor.model.checkpoint import Checkpoint

if TYPE_CHECKING:
    from lathe.compressor.latency.backend import LatencyBackend

_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class TimedModel:
    """A model to time: its plan, and the vocabulary rows of its embedding and head (0: all)."""

    plan: Plan
    vocabulary: int = 0


class BuiltModels:
    """Builds models of random weights in temporary directories."""

    def __init__(self, backend: LatencyBackend, source: Checkpoint) -> None:
        self._backend, self._source = backend, source
        self._kept: dict[TimedModel, ExitStack] = {}
        self._paths: dict[TimedModel, Path] = {}

    @contextmanager
    def build(self, model: TimedModel) -> Iterator[Path]:
        """Yields the directory of a model; it is removed at the end of the block, unless it is kept."""
        if model in self._paths:
            yield self._paths[model]
            return
        with ExitStack() as own:
            stack = self._kept.get(model, own)
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lathe-latency-")))
            source = with_vocabulary(self._source, model.vocabulary)
            self._backend.build(path, source, model.plan, len(model.plan))
            if stack is not own:
                self._paths[model] = path
            yield path

    @contextmanager
    def keep(self, model: TimedModel) -> Iterator[None]:
        """Within the block, a model is built once, when it is first needed, and removed at the end."""
        if model in self._kept:
            yield
            return
        with ExitStack() as stack:
            self._kept[model] = stack
            try:
                yield
            finally:
                del self._kept[model]
                self._paths.pop(model, None)


def with_vocabulary(source: Checkpoint, rows: int) -> Checkpoint:
    """Returns a model's description with so many rows in embedding and head (0: all of them).

    It has no special tokens, whose numbers may be larger.
    """
    if rows in (0, source.shape.vocab_size):
        return source
    config = source.config | dict.fromkeys(_SPECIAL) | {"vocab_size": rows}
    return replace(source, config=config, shape=replace(source.shape, vocab_size=rows))
