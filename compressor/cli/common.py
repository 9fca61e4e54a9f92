"""What all commands of the compressor share: JSON documents on stdout."""

from __future__ import annotations

import json
import sys
from typing import Any


def emit(document: Any) -> None:
    """Writes one JSON document to stdout."""
    sys.stdout.write(json.dumps(document) + "\n")
