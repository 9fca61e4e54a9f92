"""The oldest ONNX Runtime for a graph: older ones load it, and some compute wrong answers silently.

Found by `make check-compat` on the CPU's kernels of 1.23 to 1.32.
"""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from lathe.artefact.errors import UserError

OLDEST = "1.24"
"""Of any graph: 1.23 lets windows of attention see a token more, and has no experts."""
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
