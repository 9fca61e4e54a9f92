"""The model files that travel inside artefacts, so that these load where there is no Lathe. Needs no PyTorch.

An artefact keeps the files that it was written with. `stale_files` tells which of them are not today's.
"""

from __future__ import annotations

import json
import logging
from importlib.metadata import version
from pathlib import Path

MODELING = Path(__file__).parent / "modeling"
PLUGIN = "vllm_plugin"
PLUGIN_PACKAGE = "lathe_vllm_plugin"
log = logging.getLogger("lathe")


def _files(*names: str) -> tuple[Path, ...]:
    """The configuration and the model of each of these."""
    parts = ("configuration", "modeling")
    return tuple(MODELING / f"{part}_lathe_{name}.py" for name in names for part in parts)


SHIPPED_FILES = {
    "lathe_llama": _files("llama"),
    "lathe_gemma": _files("llama", "gemma"),
    "lathe_gpt_oss": _files("llama", "moe", "gpt_oss"),
    "lathe_moe": _files("llama", "moe"),
    "lathe_neox": _files("llama", "opt", "neox"),
    "lathe_opt": _files("llama", "opt"),
}
PLUGIN_FILES = tuple(sorted([*MODELING.glob("configuration_lathe_*.py"), *MODELING.glob("vllm_*.py")]))
"""One plugin serves all our models: installed once, it is not lost when another artefact's is."""


def plugin_project() -> str:
    """Returns the plugin's pyproject.toml. It has Lathe's version, so pip replaces an older plugin."""
    return f"""\
[build-system]
requires = ["setuptools>=61"]
build-backend = "setuptools.build_meta"

[project]
name = "lathe-vllm-plugin"
version = "{version("lathe")}"
description = "Lets vLLM serve the checkpoint that this folder came with."
requires-python = ">=3.10"

[project.entry-points."vllm.general_plugins"]
{PLUGIN_PACKAGE} = "{PLUGIN_PACKAGE}.vllm_plugin:register"

[tool.setuptools]
packages = ["{PLUGIN_PACKAGE}"]
"""


def plugin_files() -> dict[str, bytes]:
    """VLLM's definition of our models: content by path inside the plugin's folder."""
    files = {f"{PLUGIN_PACKAGE}/{file.name}": file.read_bytes() for file in PLUGIN_FILES}
    files[f"{PLUGIN_PACKAGE}/__init__.py"] = b'"""Made by Lathe: uneven models for vLLM."""\n'
    return files | {"pyproject.toml": plugin_project().encode()}


def shipped_files(directory: Path) -> dict[str, bytes]:
    """Returns what this Lathe would ship with an artefact: content by path. Empty for other models."""
    shipped = SHIPPED_FILES.get(_model_type(directory), ())
    files = {file.name: file.read_bytes() for file in shipped}
    if shipped and (directory / PLUGIN).is_dir():
        files |= {f"{PLUGIN}/{name}": content for name, content in plugin_files().items()}
    return files


def stale_files(directory: Path) -> list[str]:
    """The model files of an artefact that are missing or are not those of this Lathe."""
    return [name for name, content in shipped_files(directory).items() if _read(directory / name) != content]


def warn_if_stale(directory: Path) -> None:
    """Logs a warning if an artefact carries model files of another Lathe.

    Transformers and vLLM run those files where there is no Lathe; here our own are used. One without a
    checkpoint, such as a GGUF export, has none of them.
    """
    stale = stale_files(directory)
    if stale and any(directory.glob("*.safetensors")):
        log.warning(
            "%s carries model files of another version of Lathe (%s); transformers 5.24 and newer may answer "
            "wrongly with old ones. `lathe refresh %s` renews them and keeps the weights",
            directory,
            ", ".join(stale),
            directory,
        )


def _model_type(directory: Path) -> str:
    """Returns the model type of config.json; empty if there is none that can be read."""
    try:
        document = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""
    return str(document.get("model_type", "")) if isinstance(document, dict) else ""


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError:
        return None
