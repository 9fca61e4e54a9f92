"""The search space: which knobs are tuned, and the values of each."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lathe.artefact.errors import UserError
from lathe.artefact.options_file import read_document
from lathe.artefact.plan import ModelShape
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.tuning.knobs import AUTO, KNOBS, Knob, Value

Point = tuple[int, ...]
"""An index into the values of each knob."""
_RANGE = re.compile(r"(?P<low>[^.].*?)\.\.(?P<high>.+)")


@dataclass(frozen=True)
class TuningSpace:
    """The values of each knob that is tuned, in order, and the values of a run without tuning.

    Attributes:
        values: By knob.
        given: The value of every knob in a run without tuning, by knob; it may lie outside of `values`.
    """

    values: dict[str, tuple[Value, ...]]
    given: dict[str, Value]

    @property
    def size(self) -> int:
        """The number of points."""
        return math.prod(len(values) for values in self.values.values())

    @property
    def default(self) -> Point | None:
        """The point of a run without tuning; None where it is not in the space."""
        pairs = [(values, self.given[name]) for name, values in self.values.items()]
        inside = all(given in values for values, given in pairs)
        return tuple(values.index(given) for values, given in pairs) if inside else None

    def at(self, point: Point) -> dict[str, Value]:
        """Returns the values of a point, by knob."""
        return {name: values[i] for (name, values), i in zip(self.values.items(), point, strict=True)}

    def to_json(self) -> dict[str, list[Value]]:
        """Returns the values as documents have them."""
        return {
            name: [AUTO if value is None else value for value in values]
            for name, values in self.values.items()
        }


def tuning_space(
    asked: Iterable[str], file: Path | None, options: CompressOptions, shape: ModelShape
) -> TuningSpace:
    """Returns the space that was asked for; without any, the usual one.

    Args:
        asked: `NAME=LOW..HIGH`, or `NAME=VALUE,VALUE`.
        file: The same, a `name: values` on each line of YAML or JSON; `asked` wins over it.
        options: The options of a run without tuning.
        shape: The model's dimensions.

    Raises:
        UserError: there is no such knob, its values are not of its range, or there is one point only.
    """
    texts = dict(_from_file(file)) if file else {}
    for text in asked:
        name, equals, values = text.partition("=")
        if not equals or not values:
            raise UserError(f"--tune {text} has no values", "Write it like --tune damping=0.001..0.1.")
        texts[_known(name.strip()).name] = values
    found = {name: _values(KNOBS[name], text) for name, text in texts.items()}
    for name in found:
        if not KNOBS[name].applies(options):
            raise UserError(f"--{name} does nothing in this run", "Leave it out of the search space.")
    if not found:
        usual = {name: knob.usual(options) for name, knob in KNOBS.items() if knob.applies(options)}
        found = {name: values for name, values in usual.items() if len(values) > 1}
    space = TuningSpace(found, {name: KNOBS[name].given(options, shape) for name in found})
    if space.size < 2:
        raise UserError("the search space has one point", "Give a knob at least two values.")
    return space


def _from_file(path: Path) -> Iterator[tuple[str, str]]:
    for name, value in read_document(path).items():
        knob = _known(str(name))
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        yield knob.name, text


def _known(name: str) -> Knob:
    plain = name.removeprefix("--").replace("_", "-")
    if plain not in KNOBS:
        near = get_close_matches(plain, KNOBS, n=1, cutoff=0.0)[0]
        raise UserError(f"there is no knob `{name}`", f"The nearest is `{near}`; all: {', '.join(KNOBS)}.")
    return KNOBS[plain]


def _values(knob: Knob, text: str) -> tuple[Value, ...]:
    """Returns the values of a knob that a text names, in the ladder's order."""
    if match := _RANGE.fullmatch(text.strip()):
        low, high = _index(knob, match["low"]), _index(knob, match["high"])
        if low > high:
            raise UserError(f"--tune {knob.name}={text}: the bounds are reversed")
        return knob.ladder[low : high + 1]
    indices = {_index(knob, part) for part in text.split(",")}
    return tuple(knob.ladder[index] for index in sorted(indices))


def _index(knob: Knob, text: str) -> int:
    text = text.strip()
    for index, value in enumerate(knob.ladder):
        if text == knob.shown(value) or (isinstance(value, int | float) and _number(text) == value):
            return index
    values = ", ".join(map(knob.shown, knob.ladder))
    raise UserError(f"{knob.name} cannot be {text}", f"Its values are {values}.")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def option_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns fields of `CompressOptions` for values by knob."""
    return {KNOBS[name].field: value for name, value in values.items()}


def shown(values: Mapping[str, Value]) -> dict[str, str]:
    """Returns values by knob as the command line takes them."""
    return {name: KNOBS[name].shown(value) for name, value in values.items()}
