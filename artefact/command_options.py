"""A command's options, declared once as the fields of a dataclass.

A field declares all of an option: its type, its default and its help.

    @dataclass(frozen=True, kw_only=True)
    class PruneOptions:
        model: Annotated[str, Argument(help="A checkpoint directory.")]
        keep: Annotated[float | None, Option(help="Such as 80%.", parser=parse_share)] = None

    @command_of(PruneOptions)
    def prune(options: PruneOptions) -> None: ...

`command_of` writes the signature from which typer makes the command, and adds `--config` (`options_file.py`).
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields
from decimal import Decimal
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Optional, get_args, get_origin, get_type_hints

import typer

from lathe.artefact.errors import UserError
from lathe.artefact.options_file import read_options


@dataclass(frozen=True, kw_only=True)
class Option:
    """The description of an option, beside its field's type and default.

    Attributes:
        help: One line or two for `--help` and the reference.
        flags: The option's names, if they are not `--the-field`.
        parser: Makes the field's value from text; without one, typer converts by the field's type.
        unit: The unit after a number when the value is written to a file.
        unset: The default that `--help` shows for an option that is not given.
        follows: Makes the value of an option that is not given from the other values, by their fields' names.
        panel: The heading under which `--help` lists the option.
        metavar: The placeholder of the value in `--help`.
        envvar: The environment variable that sets the option.
        least: The smallest number allowed.
        most: The largest number allowed.
        recorded: True if an artefact records the option, because a run that repeats the result needs it.
    """

    help: str
    flags: tuple[str, ...] = ()
    parser: Callable[[str], Any] | None = None
    unit: str = ""
    unset: str | None = None
    follows: Callable[[dict[str, Any]], Any] | None = None
    panel: str | None = None
    metavar: str | None = None
    envvar: str | None = None
    least: float | None = None
    most: float | None = None
    recorded: bool = True

    def for_typer(self) -> Any:
        """Returns typer's description of it."""
        return typer.Option(
            *self.flags,
            help=literal(self.help),
            show_default=literal(self.unset) if self.unset else True,
            rich_help_panel=self.panel,
            metavar=self.metavar,
            envvar=self.envvar,
            min=self.least,
            max=self.most,
        )


@dataclass(frozen=True, kw_only=True)
class Argument(Option):
    """A field that is given by its place on the command line."""

    def for_typer(self) -> Any:
        """Returns typer's description of it."""
        return typer.Argument(help=literal(self.help), metavar=self.metavar)


@dataclass(frozen=True)
class _Declared:
    """A field of an options dataclass, and what it declares."""

    field: Field[Any]
    type: Any
    option: Option

    @property
    def key(self) -> str:
        """The option's name in a file of options."""
        long = [flag for flag in self.option.flags if flag.startswith("--")]
        return long[0].removeprefix("--") if long else self.field.name.replace("_", "-")

    def default(self) -> Any:
        """Returns the field's default; MISSING where there is none."""
        if self.option.follows:
            return None
        factory = self.field.default_factory
        return self.field.default if factory is MISSING else factory()

    def parameter(self) -> inspect.Parameter:
        """Returns the parameter of the command's signature."""
        kind, default = self._typer_type(), self.default()
        if self.option.parser and default is not MISSING:
            default = _as_text(default, self.option.unit) if default else None
        elif default == ():
            default = None
        annotation: Any = Annotated[kind, self.option.for_typer()]
        default = inspect.Parameter.empty if default is MISSING else default
        return inspect.Parameter(
            self.field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
        )

    def _typer_type(self) -> Any:
        """Returns the type that typer reads: text for a parser, a list for a tuple."""
        if self.option.parser:
            return str if self.default() else str | None
        if get_origin(self.type) is tuple:
            many = types.GenericAlias(list, get_args(self.type)[:1])
            return many if self.default() is MISSING else Optional[many]  # noqa: UP045
        return Optional[self.type] if self.option.follows else self.type  # noqa: UP045

    def value(self, given: Any) -> Any:
        """Returns the field's value for what typer read.

        Raises:
            UserError: the parser refuses it.
        """
        if given is None:
            return self.default()
        if self.option.parser:
            return self.option.parser(given)
        return tuple(given) if get_origin(self.type) is tuple else given

    def to_json(self, value: Any) -> Any:
        """Returns a value as a file of options has it."""
        if self.option.parser or isinstance(value, Path):
            return _as_text(value, self.option.unit)
        return list(value) if isinstance(value, tuple) else value


def literal(text: str) -> str:
    """Returns help text whose square brackets are shown; rich would take them for markup."""
    return text.replace("[", "\\[")


def words(text: str) -> tuple[str, ...]:
    """Parses a list with commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def recorded(options: Any) -> dict[str, Any]:
    """Returns the options that a result depends on, in the form that `--config` reads."""
    found = {one: getattr(options, one.field.name) for one in _declared(type(options)) if one.option.recorded}
    return {one.key: one.to_json(value) for one, value in found.items() if value not in (None, ())}


def recorded_flags(options: type[Any]) -> dict[str, str]:
    """Returns the long flag of each option that a result depends on, by its field's name."""
    return {one.field.name: f"--{one.key}" for one in _declared(options) if one.option.recorded}


def command_of(options: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Makes a command whose options are the fields of a dataclass.

    The function gets an instance as its first argument. What else it takes are options that are not part of
    the dataclass, described as typer wants them.
    """
    declared = {one.field.name: one for one in _declared(options)}

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def command(*, config: Path | None = None, **given: Any) -> None:  # noqa: ARG001
            own = {name: value for name, value in given.items() if name not in declared}
            values = {name: one.value(given.get(name)) for name, one in declared.items()}
            function(options(**values | _following(declared, values)), **own)

        _, *own = inspect.signature(function, eval_str=True).parameters.values()
        made = [one.parameter() for one in declared.values()]
        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        parameters = [*made, *own, _config_parameter(declared)]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def _declared(options: type[Any]) -> list[_Declared]:
    """Returns the fields that are options; other fields are not on the command line."""
    hints = get_type_hints(options, include_extras=True)
    found = []
    for field in fields(options):
        kind, *notes = get_args(hints[field.name]) if get_origin(hints[field.name]) is Annotated else (None,)
        found += [_Declared(field, kind, note) for note in notes if isinstance(note, Option)]
    return found


def _following(declared: dict[str, _Declared], values: dict[str, Any]) -> dict[str, Any]:
    """Returns values that follow from others, for options that were not given."""
    unset = {name: declared[name].option.follows for name, value in values.items() if value is None}
    return {name: follows(values) for name, follows in unset.items() if follows}


def _config_parameter(declared: dict[str, _Declared]) -> inspect.Parameter:
    """Returns `--config`, whose values stand in for defaults before anything else is read."""

    def check(name: str, given: Any) -> None:
        if name in declared:
            declared[name].value(given)

    def read(context: typer.Context, config: Path | None) -> Path | None:
        if config is not None:
            try:
                context.default_map = read_options(config, context, check)
            except UserError as error:
                typer.echo(f"error: {error}", err=True)
                raise typer.Exit(1) from None
        return config

    option = typer.Option(
        help="A YAML or JSON file of options, a `name: value` on each line. The command line wins over it.",
        metavar="FILE",
        callback=read,
        is_eager=True,
    )
    annotation = Annotated[Path | None, option]
    return inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _as_text(value: Any, unit: str = "") -> str:
    if isinstance(value, tuple | list):
        return ",".join(_as_text(one, unit) for one in value)
    if isinstance(value, int | float):
        return format(Decimal(repr(value)).normalize(), "f") + unit
    return str(value)
