"""Does a released vLLM have every name, parameter, option and metric of it that Lathe uses?

    python .ci/vllm_names build/vllm_wheels/*.whl     # or folders that they were unpacked in

Reads the wheel's sources and imports nothing of it, so that a machine without a GPU can tell of the GPU build
what would be missing. Prints one line of JSON for each, and ends with 1 where something is missing. What vLLM
computes is tested where it runs, in tests/on_vllm.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from handed import GIVEN, NAMED, REPLACED
from sources import Wheel
from uses import Check, File

from lathe.artefact.modeling.vllm_plugin import refusal

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = "serving/vllm/arguments.py"
SERVER = "serving/vllm/server.py"
OURS = {"VLLM_ARGS"}
"""What looks like a variable of vLLM's."""
_PLACES = ("artefact", "compressor", "serving", "benchmarks", "tests/on_vllm")
_ENGINE = "engine/arg_utils.py"
_FRONT_ENDS = ("entrypoints/common/cli_args.py", "entrypoints/launchers/cli_args.py")
_BUILT = re.compile(r"_total$|_(bucket|sum|count)$")
_WHOLE_METRIC = re.compile(r"vllm:[a-z0-9_]*[a-z0-9]")


def main(arguments: list[str]) -> int:
    """The exit status."""
    missing = 0
    for given in arguments:
        with tempfile.TemporaryDirectory() as scratch:
            report = examine(unpacked(Path(given), Path(scratch)))
        sys.stdout.write(json.dumps(report) + "\n")
        missing += len(report["missing"])
    return int(missing > 0 or not arguments)


def unpacked(given: Path, scratch: Path) -> Path:
    """The folder of a wheel's sources."""
    if given.is_dir():
        return given
    with zipfile.ZipFile(given) as archive:
        archive.extractall(scratch, [n for n in archive.namelist() if n.endswith((".py", "METADATA"))])
    return scratch


def examine(folder: Path) -> dict[str, Any]:
    """`missing`: what is not there; `checked`: how much was looked for; `served`: whether Lathe takes it."""
    wheel = Wheel(folder)
    checks = {(path, what): ok for path, (what, ok) in _all(wheel)}
    missing = [f"{path}: {what}" for (path, what), ok in checks.items() if not ok]
    served = refusal(wheel.name.split()[1]) is None
    return {"wheel": wheel.name, "served": served, "checked": len(checks), "missing": missing}


def _all(wheel: Wheel) -> Iterator[tuple[str, Check]]:
    paths = [str(p.relative_to(ROOT)) for place in _PLACES for p in sorted((ROOT / place).rglob("*.py"))]
    for path in paths:
        text = (ROOT / path).read_text(encoding="utf-8")
        if "vllm" in text:
            checks = [*File(wheel, ROOT, path).checks(), *_variables(wheel, text), *_metrics(wheel, text)]
            yield from ((path, check) for check in checks)
    yield from ((ARGUMENTS, check) for check in _options(wheel))
    for place, names in REPLACED.items():
        found = wheel.find(*place.split(":"))
        have = wheel.members(found) if found else set()
        yield from (("replaced", (f"{place}.{name}", name in have)) for name in names)
    for place, names in GIVEN.items():
        found = wheel.find(*place.split(":"))
        takes = wheel.signature(found).names if found else frozenset()
        yield from (("given", (f"{place}({name}=)", takes is None or name in takes)) for name in names)
    for file, strings in NAMED.items():
        yield from (("named", (f"{string} in {file}", string in wheel.text(file))) for string in strings)


def _variables(wheel: Wheel, text: str) -> Iterator[Check]:
    known = wheel.text("envs.py")
    for name in sorted(set(re.findall(r"(?<![A-Z_])VLLM_[A-Z0-9_]+", text))):
        if name not in OURS:
            yield f"${name}", f'"{name}"' in known


def _metrics(wheel: Wheel, text: str) -> Iterator[Check]:
    sources = "".join(p.read_text() for p in sorted((wheel.folder / "vllm/v1").rglob("*.py")) if _counts(p))
    for name in sorted(set(_WHOLE_METRIC.findall(text))):
        yield name, _BUILT.sub("", name) in sources


def _counts(path: Path) -> bool:
    return path.name in ("loggers.py", "metrics.py", "prometheus.py")


def _options(wheel: Wheel) -> Iterator[Check]:
    """Options that we give vLLM, keep from it or read: strings of its parsers, or fields of its front end."""
    front = "".join(map(wheel.text, _FRONT_ENDS))
    text = front + wheel.text(_ENGINE)
    tree = ast.parse((ROOT / ARGUMENTS).read_text(encoding="utf-8"))
    parts: list[ast.expr | None] = []
    for node in ast.walk(tree):
        parts += node.elts if isinstance(node, ast.List) else node.keys if isinstance(node, ast.Dict) else []
    options = {p.value for p in parts if isinstance(p, ast.Constant) and str(p.value).startswith("--")}
    read = re.findall(r"\bargs\.([a-z_]+)", (ROOT / SERVER).read_text(encoding="utf-8"))
    for option in sorted({*map(str, options), *("--" + name.replace("_", "-") for name in read)}):
        field = option.removeprefix("--").replace("-", "_")
        there = f'"{option}"' in text or re.search(rf"^    {field}: ", front, re.MULTILINE) is not None
        yield option, there


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
