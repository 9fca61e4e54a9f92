"""Writes a domain of Python: the modules of the standard library, as documents of one text file.

python -m benchmarks.domains.python_text build/bench/python.txt
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

from lathe.artefact.atomic_files import write_bytes
from lathe.compressor.calibration.sources import DOCUMENT_SEPARATOR


def main() -> int:
    """Returns the exit status."""
    out = Path(sys.argv[1])
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, DOCUMENT_SEPARATOR.join(module.read_text("utf-8") for module in modules).encode())
    print(f"{out}: {len(modules)} modules")
    return 0


if __name__ == "__main__":
    sys.exit(main())
