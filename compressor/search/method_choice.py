"""The method that suits a model, where none was asked for."""

from __future__ import annotations

from dataclasses import replace

from lathe.artefact.errors import UserError
from lathe.artefact.plan import ModelShape
from lathe.compressor.search.method import Method, methods

AUTO, SLOWEST = "auto", "lathe"
_FASTER = "fast"
_LARGE = 30_000_000
"""Decoder parameters from which `auto` takes the faster method; there the slower one takes hours."""


def check_name(name: str) -> None:
    """Refuses a name that no method has.

    Raises:
        UserError: it is unknown.
    """
    if name != AUTO:
        methods.get(name)


def chosen_method(name: str, shape: ModelShape, refinements: int | None = None) -> Method:
    """Returns the method of this name; for `auto` the one that suits a model of these dimensions.

    Args:
        name: The value of `--method`.
        shape: The model's dimensions.
        refinements: The most rounds that refine the subnet as a whole; None leaves the method's own.
    """
    if name == AUTO:
        name = _FASTER if shape.decoder_parameters(shape.dense_plan) >= _LARGE else SLOWEST
    found = methods.get(name)
    return found if refinements is None else replace(found, whole_rounds=refinements)


def refuse_experts(name: str, shape: ModelShape) -> None:
    """Refuses mixtures of experts, whose channels no mask of a method stands for.

    Raises:
        UserError: the model has experts.
    """
    if shape.experts:
        raise UserError(
            f"--method {name} is not for mixtures of experts", "Leave --method out, or take another."
        )
