"""One latency target in, a smaller language model that meets it out, and a server that proves it.

The Python interface: `compress` makes an artefact, `open_artefact` reads one, `serve` serves one. A name is
imported when it is first used, so that `import lathe` loads neither PyTorch nor a server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lathe.artefact.directory import Artefact, open_artefact
    from lathe.artefact.errors import UserError
    from lathe.artefact.plan import LayerShape, Plan
    from lathe.compressor.pipeline.outcome import Outcome
    from lathe.run_compress import compress
    from lathe.run_serve import serve

    __version__: str

__all__ = [
    "Artefact",
    "LayerShape",
    "Outcome",
    "Plan",
    "UserError",
    "__version__",
    "compress",
    "open_artefact",
    "serve",
]

_MODULES = {
    "Artefact": "lathe.artefact.directory",
    "LayerShape": "lathe.artefact.plan",
    "Outcome": "lathe.compressor.pipeline.outcome",
    "Plan": "lathe.artefact.plan",
    "UserError": "lathe.artefact.errors",
    "compress": "lathe.run_compress",
    "open_artefact": "lathe.artefact.directory",
    "serve": "lathe.run_serve",
}


def __getattr__(name: str) -> Any:
    """Imports a public name (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("lathe")
    elif name in _MODULES:
        value = getattr(import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
