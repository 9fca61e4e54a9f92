"""The ONNX export of a dense checkpoint, which `lathe serve` makes on the first use."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

from lathe.artefact.errors import UserError

log = logging.getLogger("lathe.serving")

_COMMAND = (sys.executable, "-m", "lathe", "export", "--to", "onnx", "--json")
_ERROR = "error: "


def export_dense(path: Path) -> Path:
    """Returns the directory of the export, in the cache of `lathe export`.

    It runs in a process of its own: its memory is freed afterwards, and the server runs without the
    compressor.

    Raises:
        UserError: the model cannot be exported; in the words of `lathe export`.
    """
    log.warning("%s is a dense checkpoint: serving its ONNX export, which is made on the first use", path)
    done = subprocess.run([*_COMMAND, "--", str(path)], capture_output=True, text=True, check=False)
    said = done.stderr.splitlines()
    for line in said:
        if not line.startswith(_ERROR):
            log.warning(line)
    if done.returncode:
        errors = [line.removeprefix(_ERROR) for line in said if line.startswith(_ERROR)]
        raise UserError(
            errors[-1] if errors else f"`lathe export {path}` ended with status {done.returncode}"
        )
    return Path(json.loads(done.stdout)["output"])
