"""Does every module import where only the core dependencies are installed?

`make check-imports` runs this.

What is for an optional engine may lack that engine, and nothing else.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

PACKAGES = ("lathe",)
OPTIONAL = {"ray", "vllm"}
"""Modules of others that a module may lack if its own name says that it is for them."""


def main() -> int:
    failures: list[str] = []
    lacking: list[str] = []
    count = 0
    for package in map(importlib.import_module, PACKAGES):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.endswith("__main__"):
                continue
            count += 1
            try:
                importlib.import_module(module.name)
            except ImportError as error:
                missing = (error.name or "").partition(".")[0]
                ours = missing in OPTIONAL and missing in module.name
                (lacking if ours else failures).append(f"{module.name}: {error}")
    imported = count - len(failures) - len(lacking)
    sys.stdout.write(f"{imported} of {count} modules import, {len(lacking)} lack what is optional\n")
    sys.stdout.writelines(f"  {failure}\n" for failure in failures)
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
