"""A file of options, as `--config` reads it: `name: value` in YAML, and so in JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer

from lathe.artefact.errors import UserError

_WITHOUT = {"help", "config"}
"""Options of a command that no file sets."""

Check = Callable[[str, Any], None]
"""Called with a parameter's name and its value.

Raises:
    UserError: the value is refused.
"""


def read_options(path: Path, context: typer.Context, check: Check) -> dict[str, Any]:
    """Reads values for a command's parameters, by the parameters' names.

    Raises:
        UserError: the file cannot be read, a key is not an option, or a value is not of its type.
    """
    known = _names(context)
    values: dict[str, Any] = {}
    for key, value in read_document(path).items():
        parameter = known.get(_plain(key))
        if parameter is None:
            near = get_close_matches(_plain(key), known, n=1, cutoff=0.0)
            raise UserError(f"{path}: there is no option `{key}`", f"The nearest is `{near[0]}`.")
        if value is None:
            continue
        try:
            found = _typed(parameter, value)
            check(parameter.name, parameter.process_value(context, found))
        except UserError as error:
            raise UserError(f"{path}: {_plain(key)}: {error}") from None
        except typer.BadParameter as error:
            reason = error.message.removeprefix("Value error, ")
            raise UserError(f"{path}: {_plain(key)} is {value!r}: {reason}") from None
        values[parameter.name] = found
    return values


def read_document(path: Path) -> dict[Any, Any]:
    """Reads the `name: value` lines of a YAML or JSON file.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    import yaml

    kind, parse = ("JSON", json.loads) if path.suffix == ".json" else ("YAML", yaml.safe_load)
    try:
        document = parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path} is not {kind}: {error}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise UserError(f"{path} holds no options", "Write one on each line, such as `threads: 2`.")
    return document


def _names(context: typer.Context) -> Mapping[str, Any]:
    """Returns a command's parameters by the keys that stand for them."""
    found = {}
    for parameter in context.command.params:
        if parameter.name not in _WITHOUT:
            is_option = parameter.param_type_name == "option"
            names = [name for name in parameter.opts if name.startswith("--")] if is_option else []
            found[_plain(max(names, key=len) if names else parameter.name or "")] = parameter
    return found


def _plain(key: Any) -> str:
    """Returns a key with dashes, as options are written."""
    return str(key).removeprefix("--").replace("_", "-")


def _typed(parameter: Any, value: Any) -> Any:
    """Returns what typer would have got from the command line.

    Raises:
        UserError: the value has not the shape of this option.
    """
    if getattr(parameter, "is_flag", False):
        if isinstance(value, bool):
            return value
        raise UserError(f"{value!r} is neither true nor false")
    if getattr(parameter, "multiple", False) or parameter.nargs == -1:
        return [_text(one) for one in (value if isinstance(value, list) else [value])]
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{value!r} is neither text nor a number", "Put text in quotes.")
    return str(value)
