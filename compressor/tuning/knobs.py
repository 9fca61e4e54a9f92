"""The options of `compress` that can be tuned, each with its values in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lathe.artefact.plan import ModelShape
from lathe.compressor.calibration.amount import LEAST
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.search.method_choice import chosen_method
from lathe.compressor.search.space import FFN_LEVELS

Value = int | float | str | None
AUTO = "auto"


@dataclass(frozen=True)
class Knob:
    """An option of `compress` that can be tuned.

    Attributes:
        name: The option's name without its dashes; its field has underscores.
        ladder: All values that it can have, in order.
        usual: Returns the values that are tried where a user names none; empty where it is left alone.
        given: Returns the value that a run without tuning has.
        ordered: Whether neighbours on the ladder are alike.
        applies: Whether the option does anything in runs with these options.
    """

    name: str
    ladder: tuple[Value, ...]
    usual: Callable[[CompressOptions], tuple[Value, ...]]
    given: Callable[[CompressOptions, ModelShape], Value]
    ordered: bool = True
    applies: Callable[[CompressOptions], bool] = lambda _options: True

    @property
    def field(self) -> str:
        """The field of `CompressOptions`."""
        return self.name.replace("-", "_")

    def shown(self, value: Value) -> str:
        """Returns a value as the command line takes it."""
        return AUTO if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _field(name: str) -> Callable[[CompressOptions, ModelShape], Value]:
    return lambda options, _shape: getattr(options, name)


def _usual_tokens(options: CompressOptions) -> tuple[Value, ...]:
    most = options.calibration_tokens
    return tuple(value for value in TOKENS if max(LEAST, most // 16) <= value <= most)


def _usual_methods(options: CompressOptions) -> tuple[Value, ...]:
    """Returns the methods that belong together; one that was asked for by name stays."""
    return METHODS if options.method == AUTO else ()


def _given_method(options: CompressOptions, shape: ModelShape) -> Value:
    return chosen_method(options.method, shape).name


def _given_refinements(options: CompressOptions, shape: ModelShape) -> Value:
    return chosen_method(options.method, shape, options.refinements).whole_rounds


TOKENS = tuple(2**power for power in range(10, 21))
METHODS = ("quick", "fast", "lathe")
OTHER_METHODS = ("policy-gradient", "evopress", "tyr", "gisp", "grasprune", "paper")
GROUPS = ("auto", "adaptive", "32", "64", "128", "256")
DAMPINGS = (None, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)

KNOBS = {
    knob.name: knob
    for knob in (
        Knob("calibration-tokens", TOKENS, _usual_tokens, _field("calibration_tokens")),
        Knob("method", METHODS + OTHER_METHODS, _usual_methods, _given_method),
        Knob("refinements", (0, 1, 2, 3, 4), lambda _options: (0, 1, 2, 3), _given_refinements),
        Knob("damping", DAMPINGS, lambda _options: DAMPINGS, _field("damping"), ordered=False),
        Knob(
            "ffn-levels",
            tuple(2**power for power in range(1, 6)),
            lambda _options: (8, 16, FFN_LEVELS),
            _field("ffn_levels"),
        ),
        Knob(
            "group-size",
            GROUPS,
            lambda _options: ("auto", "adaptive", "32", "64", "128"),
            _field("group_size"),
            ordered=False,
            applies=lambda options: options.quantizes and options.graph_kind == "onnx",
        ),
        Knob(
            "evaluations",
            tuple(2**power for power in range(11)),
            lambda _options: (),
            lambda options, shape: (
                options.evaluations or chosen_method(options.method, shape).default_evaluations
            ),
        ),
    )
}
"""Every knob by name."""
