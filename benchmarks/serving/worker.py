"""The process of a system: `python -m benchmarks.serving.worker RIVAL`, in the rival's own environment.

Reads a JSON document a line from stdin and answers each by one on stdout; what libraries print goes to
stderr. Commands: `open`, `turn`, `logits`.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving.rival import Engine, Job, Rival, rivals

Answer = dict[str, Any]


class System:
    """One rival with one model in one format."""

    def __init__(self, rival: Rival) -> None:
        self._rival = rival
        self._engine: Engine | None = None

    def open(self, model: str, format: str, out: str, threads: int, batch: int, length: int) -> Answer:
        """Make the rival's files, if they are not there, and load them."""
        job = Job(Path(model), format, Path(out), threads, batch, length)
        path = self._rival.make(job)
        engine = self._engine = self._rival.load(path, job)
        return {
            "path": str(path),
            "versions": {name: version(name) for name in self._rival.packages},
            "streamed_bytes": int(engine.streamed_bytes),
            "kv_bytes": int(engine.kv_bytes),
            "chosen": getattr(engine, "chosen", None),
        }

    def turn(self, prompts: list[list[int]], steps: int) -> Answer:
        """Read prompts and go on for some steps; milliseconds of either, and the tokens [B, 1 + steps].

        The first prompt is read once before, unmeasured.
        """
        engine, tokens = self._loaded(), np.array(prompts, np.int64)
        engine.prefill(tokens[:1])
        first, prefill = _timed(lambda: engine.prefill(tokens))
        rest = [_timed(engine.decode) for _ in range(steps)]
        greedy = np.stack([first, *(found for found, _ in rest)], axis=1)
        return {"prefill_ms": prefill, "decode_ms": [ms for _, ms in rest], "tokens": greedy.tolist()}

    def logits(self, prompts: list[list[int]], file: str) -> Answer:
        """Save what follows prompts, [B, V], as a NumPy file, if it is to be had."""
        logits = self._loaded().logits
        if logits is not None:
            np.save(file, logits(np.array(prompts, np.int64)))
        return {"saved": logits is not None}

    def _loaded(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("`open` comes first")
        return self._engine


def _timed(step: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    start = time.perf_counter()
    found = step()
    return found, (time.perf_counter() - start) * 1e3


def main() -> None:
    with os.fdopen(os.dup(1), "w") as channel:
        os.dup2(2, 1)
        system = System(rivals.get(sys.argv[1]))
        commands: dict[str, Callable[..., Answer]] = {
            "open": system.open,
            "turn": system.turn,
            "logits": system.logits,
        }
        for line in sys.stdin:
            request = json.loads(line)
            try:
                answer = commands[request.pop("do")](**request)
            except Exception as error:  # whatever a rival raises is its result
                traceback.print_exc()
                answer = {"error": f"{type(error).__name__}: {error}"}
            channel.write(json.dumps(answer) + "\n")
            channel.flush()


if __name__ == "__main__":
    main()
