"""llama.cpp's C interface, as llama-cpp-python builds and declares it, and what it says of its errors."""

from __future__ import annotations

import ctypes
import re
from collections import deque
from functools import cache
from typing import Any

from lathe.artefact.errors import UserError

INSTALL = "pip install 'lathe[llamacpp]'"
_ERROR_LEVEL, _LINES_KEPT = 4, 8
_FUNCTION = re.compile(r"^\w+: (error loading model: )*")
"""What a line begins with."""
_said: deque[str] = deque(maxlen=_LINES_KEPT)


@cache
def llama_cpp() -> Any:
    """Returns the module `llama_cpp`, whose log is kept, errors alone, for `explanation`.

    Raises:
        UserError: it is not installed, or its library does not load.
    """
    try:
        import llama_cpp as api
    except ImportError:
        raise UserError("llama.cpp is not installed", f"Install it: {INSTALL}.") from None
    except (OSError, RuntimeError) as error:
        raise UserError(f"llama.cpp is installed and does not load: {error}", "Install it again.") from None
    _keep_errors(api)
    api.llama_backend_init()
    return api


def explanation() -> str:
    """Returns the first of the errors that llama.cpp told since it was last asked, and forgets all."""
    lines = [_FUNCTION.sub("", line) for line in _said]
    _said.clear()
    return lines[0] if lines else "it gives no reason"


@cache
def _keep_errors(api: Any) -> Any:
    """Takes over llama.cpp's log; the result has to live as long as the library calls it."""

    def note(level: int, text: bytes, _data: Any) -> None:
        line = text.decode(errors="replace").strip()
        if level == _ERROR_LEVEL and line:
            _said.append(line)

    callback = api.llama_log_callback(note)
    api.llama_log_set(callback, ctypes.c_void_p(0))
    return callback
