"""Options of `lathe serve` that belong to some engines only."""

from __future__ import annotations

from lathe.artefact.errors import UserError
from lathe.serving.options import ServeOptions


def refuse_onnx_only(engine: str, options: ServeOptions, names: tuple[str, ...]) -> None:
    """Refuses options that only the onnx engine has.

    Args:
        engine: The engine that was asked for.
        options: What was given.
        names: The fields that it lacks.

    Raises:
        UserError: One of them is given.
    """
    for name in names:
        if getattr(options, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"the {engine} engine does not take {option}", "It is for --engine onnx.")
