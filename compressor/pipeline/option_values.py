"""Values of the options of `compress` that have names of their own."""

from __future__ import annotations

from lathe.artefact.errors import UserError

WINDOW = 512
"""Tokens of a calibration or evaluation window, where the model has that many positions."""

AUTO_BITS = "auto"
BIT_SCHEMES = {AUTO_BITS: "mixed", "16": None, "8": "int8", "4": "int4"}
"""The scheme that each value of `--bits` stands for."""
GRAPHS = ("onnx", "gguf")
"""Exports that one run writes one of, and that may have weights rounded."""
FLOAT_CACHE, INT8_CACHE = KV_CACHES = ("float", "int8")
"""The values of `--kv-cache`."""
GENAI = "genai"
"""The exporter that adds to the ONNX graph."""
JOINT = "joint"
"""The default of `--pattern-method`."""


def check_kv_cache(name: str | None) -> None:
    """Checks what `--kv-cache` was given.

    Raises:
        UserError: there is no such cache.
    """
    if name is not None and name not in KV_CACHES:
        raise UserError(f"--kv-cache {name} is unknown", f"Choose of {', '.join(KV_CACHES)}.")


def with_scheme(name: str, scheme: str | None) -> str:
    """Returns the exporter, or backend, of quantized weights that goes with one; a checkpoint has none."""
    return name if scheme is None or name == "checkpoint" else f"{name}-{scheme}"
