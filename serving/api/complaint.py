"""Which of pydantic's complaints about a body is told, and where in the body it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from serving.api.errors import ApiError, invalid
from serving.api.limits import FieldError

LONGEST_PATH = 100


def complaint(error: ValidationError, document: Any) -> ApiError:
    """A 400 about the first fault; where a field takes several kinds of values, about the one that
    fits best."""
    told, message = _best(list(error.errors(include_url=False)), document)
    cause = told.get("ctx", {}).get("error")
    if isinstance(cause, FieldError):
        return invalid(str(cause), cause.field)
    path = ".".join(str(part) for _, part in _places(told, document))[:LONGEST_PATH]
    return invalid(f"{path}: {message}" if path else message, str(told["loc"][0]) if path else None)


def _best(errors: Sequence[Any], document: Any) -> tuple[Any, str]:
    """(an error, what it says); where no kind of value fits at all, all of them are said."""
    first = errors[0]
    places = [at for at, _ in _places(first, document)]
    kind = next((at for at in range(len(first["loc"])) if at not in places), None)
    if kind is None:
        return first, first["msg"]
    rivals = [error for error in errors if error["loc"][:kind] == first["loc"][:kind]]
    faults = Counter(error["loc"][: kind + 1] for error in rivals)

    def fit(error: Any) -> tuple[int, int, list[int], bool]:
        indices = [part for part in error["loc"] if isinstance(part, int)]
        return len(error["loc"]), -faults[error["loc"][: kind + 1]], indices, _near(error)

    best = max(rivals, key=fit)
    if len(best["loc"]) > kind + 1 or not best["type"].endswith("_type"):
        return best, best["msg"]
    lead = "Input should be "
    return best, lead + " or ".join(dict.fromkeys(error["msg"].removeprefix(lead) for error in rivals))


def _near(error: Any) -> bool:
    """Whether the value has the right type, or is at least a number where one is due."""
    number = isinstance(error["input"], int | float) and not isinstance(error["input"], bool)
    kind = str(error["type"])
    return not kind.endswith("_type") or (number and kind in ("int_type", "float_type"))


def _places(error: Any, document: Any) -> list[tuple[int, int | str]]:
    """(index, part) of the parts of its location that are places in the document, and not kinds of values."""
    found = []
    for i, part in enumerate(error["loc"]):
        last = i == len(error["loc"]) - 1
        try:
            document = document[part]
        except (LookupError, TypeError):
            if not (last and error["type"] == "missing"):
                continue
        found.append((i, part))
    return found
