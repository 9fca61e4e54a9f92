"""Several runners of one process, such as those of a family: what is equal of their weights is kept once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lathe.artefact.onnx.device import CPU
from lathe.artefact.onnx.equal_pages import EqualPages
from lathe.artefact.onnx.runner import OnnxRunner


def open_together(openings: Mapping[str, Callable[[], OnnxRunner]]) -> dict[str, OnnxRunner]:
    """Opens runners one after another, the widest first, while nothing else runs in this process.

    ONNX Runtime keeps a packed copy of matrices for each session. On the CPU of a Linux system, pages of
    these copies that are equal are kept once (`equal_pages.py`).

    Args:
        openings: What opens each runner, by name.

    Returns:
        The runners by the same names.

    Raises:
        UserError: one cannot be opened.
        MemoryError: as `OnnxRunner`.
    """
    if len(openings) == 1:
        return {name: opened() for name, opened in openings.items()}
    runners = {}
    with EqualPages() as pages:
        for name, opened in openings.items():
            runner = runners[name] = opened()
            if runner.device is CPU and len(runners) > 1:
                pages.merge()
    return runners
