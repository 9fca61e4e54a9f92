"""The oldest ONNX Runtime for a graph: older ones load it, and some compute wrong answers silently.

Found on the CPU's kernels of 1.23 to 1.32, by `make check-compat` but for the int8 cache.
"""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from lathe.artefact.errors import UserError

OLDEST = "1.24"
"""Of any graph: 1.23 lets windows of attention see a token more, and has no experts."""
INT8_CACHE = "1.27"
"""Of a graph whose KV cache is int8: 1.25 and 1.26 load it and fail at its first step, 1.24 does not."""
ENTRY = "lathe.onnxruntime"
"""What a graph's metadata calls the version that it needs."""


INSTALLED = ort.__version__


def check_version(needed: str, what: str) -> None:
    """Checks that the installed ONNX Runtime computes a graph right.

    Args:
        needed: The oldest version that does.
        what: The graph or the model, as the user knows it.

    Raises:
        UserError: the installed version is older.
    """
    if _numbers(INSTALLED) < _numbers(needed):
        raise UserError(
            f"{what} needs ONNX Runtime {needed} or newer: {INSTALLED}, which is installed, would compute it "
            "wrongly or not at all",
            f"pip install --upgrade 'onnxruntime>={needed}'",
        )


def check_graph(path: Path) -> None:
    """Checks that the installed ONNX Runtime computes a graph right, by the graph's metadata.

    Raises:
        UserError: it is older than the graph needs.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    check_version(entries.get(ENTRY, OLDEST), str(path))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])
