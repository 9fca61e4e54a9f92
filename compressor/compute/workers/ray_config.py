"""The workers that `--ray` asks for, checked before Ray is imported."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass

import psutil

from lathe.artefact.errors import UserError


@dataclass(frozen=True)
class RayConfig:
    """A cluster of this run's own with so many workers, or the address of a running one.

    Attributes:
        workers: The number of workers of an own cluster.
        address: The address of a running cluster.
        threads: Threads of each worker; None: the cores are shared out.
    """

    workers: int | None
    address: str | None
    threads: int | None

    @property
    def own_threads(self) -> int:
        """The threads of each worker of an own cluster."""
        return self.threads or max(1, (psutil.cpu_count(logical=False) or 1) // (self.workers or 1))


def parse_place(text: str, threads: int | None) -> RayConfig:
    """Parses `local:N`, `auto` or HOST:PORT.

    Raises:
        UserError: it is none of these, or there is no Ray.
    """
    remedy = "Give local:2 (so many workers on this machine), auto, or a cluster's HOST:PORT."
    local = re.fullmatch(r"local:(\d+)", text)
    if local and int(local[1]) < 1:
        raise UserError(f"--ray {text} asks for no worker", remedy)
    if not local and text != "auto" and not re.fullmatch(r"[^:/\s]+:\d+", text):
        raise UserError(f"--ray {text} is not a place for workers", remedy)
    if threads is not None and threads < 1:
        raise UserError(f"--worker-threads {threads} is not a number of threads", "Give at least 1.")
    if importlib.util.find_spec("ray") is None:
        raise UserError("--ray needs Ray, which is not installed", "pip install 'lathe[ray]'")
    return RayConfig(int(local[1]), None, threads) if local else RayConfig(None, text, threads)
