"""State that the processes of one vLLM server share: `lathe serve` and one or more API servers.

It is a private directory. `lathe serve` writes what is served, and says when to stop; every API server keeps
a
file of two numbers. None of it is read or written per token.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lathe.artefact.atomic_files import write_json

VARIABLE = "LATHE_VLLM_BOARD"
"""Where a vLLM process finds the state; unset in a vLLM that `lathe serve` did not start."""
_COUNTS = struct.Struct("qq")


@dataclass(frozen=True, slots=True)
class ServedModelInfo:
    """The served model and the settings of its API servers.

    Attributes:
        model: the name.
        target_ms: the latency that it was compressed for, if any.
        target_metric: tpot, ttft or e2e.
        info: the labels of `lathe_model_info`.
        values: the number of floating-point values of the weights.
        other_bytes: bytes of the weights of other types.
        kv_values: values of one token in the KV cache.
        dense_weights: as in `ServedModel`.
        dense_kv: as in `ServedModel`.
        key: the API key's SHA-256, in hex.
        origins: web pages that may call from a browser.
        setup: the playground's, if there is one.
        compare: the address of the server to compare with.
    """

    model: str
    target_ms: float | None
    target_metric: str
    info: dict[str, str]
    values: int
    other_bytes: int
    kv_values: int
    dense_weights: float | None
    dense_kv: float | None
    key: str | None
    origins: list[str]
    setup: dict[str, Any] | None = None
    compare: str | None = None


class SharedState:
    """Reads and writes the shared directory, from any of the processes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @classmethod
    def here(cls) -> SharedState | None:
        """Returns the state of the server that this process belongs to, if it is one of ours."""
        directory = os.environ.get(VARIABLE)
        return cls(Path(directory)) if directory else None

    @property
    def path(self) -> Path:
        return self._directory

    def publish(self, served: ServedModelInfo) -> None:
        write_json(self._directory / "served.json", asdict(served))

    def served(self) -> ServedModelInfo:
        document: dict[str, Any] = json.loads((self._directory / "served.json").read_text())
        return ServedModelInfo(**document)

    def expect(self, servers: int) -> None:
        """Records how many API servers there will be."""
        write_json(self._directory / "expected.json", servers)

    @property
    def ready(self) -> bool:
        """True once every API server has generated a token."""
        file = self._directory / "expected.json"
        expected = json.loads(file.read_text()) if file.exists() else 1
        return sum(ready for ready, _ in self._counts()) >= expected

    @property
    def in_flight(self) -> int:
        """The number of requests that are being answered."""
        return sum(requests for _, requests in self._counts())

    def fail(self, message: str) -> None:
        """Records why the server cannot become ready."""
        write_json(self._directory / "failure.json", message)

    @property
    def failure(self) -> str | None:
        file = self._directory / "failure.json"
        return str(json.loads(file.read_text())) if file.exists() else None

    def stop_accepting(self) -> None:
        (self._directory / "draining").touch()

    @property
    def draining(self) -> bool:
        return (self._directory / "draining").exists()

    def end_answers(self) -> None:
        """Tells the API servers to end what is not finished."""
        (self._directory / "ending").touch()

    @property
    def ending(self) -> bool:
        return (self._directory / "ending").exists()

    def _counts(self) -> list[tuple[int, int]]:
        files = self._directory.glob("server-*")
        return [_COUNTS.unpack(data) for file in files if len(data := file.read_bytes()) == _COUNTS.size]


class Counts:
    """The two numbers of this API server."""

    def __init__(self, state: SharedState) -> None:
        with (state.path / f"server-{os.getpid()}").open("w+b") as file:
            file.truncate(_COUNTS.size)
            self._memory = mmap.mmap(file.fileno(), _COUNTS.size)
        self._ready = self._in_flight = 0

    def set_ready(self) -> None:
        self._ready = 1
        self._write()

    def begin(self) -> None:
        self._in_flight += 1
        self._write()

    def end(self) -> None:
        self._in_flight -= 1
        self._write()

    def _write(self) -> None:
        _COUNTS.pack_into(self._memory, 0, self._ready, self._in_flight)
