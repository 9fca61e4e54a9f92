"""Named variants: ours are found by their files, those of other distributions by their entry points."""

from __future__ import annotations

import functools
import importlib
import logging
import pkgutil
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from lathe.artefact.errors import UserError

T = TypeVar("T")

log = logging.getLogger("lathe.artefact")


class PluginError(Exception):
    """A third party's variant that is left out; the message is one sentence that names its distribution."""


class Registry(Generic[T]):
    """Values by name, all loaded on the first look-up.

    A module of `package` registers its values when it is imported: a variant is added by adding a file.
    Another distribution adds one by an entry point of `group`: the entry point's name is the value's name,
    and its object is the value. A plugin that cannot be loaded or whose name is taken is left out with a
    warning, and the others work.

    Args:
        kind: what a value is called in messages.
        package: the dotted package whose modules register values.
        group: the entry-point group of other distributions; None: they cannot add any.
        accepts: tells whether an object of an entry point is such a value under that name.
    """

    def __init__(
        self,
        kind: str,
        package: str,
        group: str | None = None,
        accepts: Callable[[str, Any], bool] = lambda _name, _value: True,
    ) -> None:
        self._kind, self._package, self._group, self._accepts = kind, package, group, accepts
        self._values: dict[str, T] = {}
        self._failures: dict[str, str] = {}
        self._loaded = False

    def add(self, name: str, value: T) -> T:
        """Makes a value known by a name.

        Raises:
            UserError: another value has that name.
        """
        if self._values.setdefault(name, value) is not value:
            raise UserError(f"there is a {self._kind} `{name}` already", "Give one of the two another name.")
        return value

    def register(self, name: str) -> Callable[[T], T]:
        """Returns a decorator that makes a value known by a name, as `add` does."""
        return lambda value: self.add(name, value)

    def known(self) -> list[str]:
        """Returns all names, sorted."""
        self._load_all()
        return sorted(self._values)

    def get(self, name: str) -> T:
        """Returns the value of a name.

        Raises:
            UserError: there is none, or its plugin could not be loaded.
        """
        self._load_all()
        if name in self._failures:
            raise UserError(self._failures[name])
        if name not in self._values:
            raise UserError(f"there is no {self._kind} `{name}`", f"Known: {', '.join(self.known())}.")
        return self._values[name]

    def _load_all(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        for module in self._modules():
            self._import(module)
        for point in self._entry_points():
            try:
                if point.name in self._values:
                    raise PluginError(self._refusal(point, "that name is taken"))
                self.add(point.name, self._plugin(point))
            except PluginError as error:
                if point.name not in self._values:
                    self._failures[point.name] = str(error)
                _warn_once(str(error))

    def _modules(self) -> list[str]:
        """Returns the names of the modules in the package, without importing them."""
        path = importlib.import_module(self._package).__path__
        return sorted(module.name for module in pkgutil.iter_modules(path))

    def _import(self, module: str) -> None:
        importlib.import_module(f"{self._package}.{module}")

    def _entry_points(self) -> list[EntryPoint]:
        if self._group is None:
            return []
        return sorted(entry_points(group=self._group), key=lambda point: (point.name, _distribution(point)))

    def _plugin(self, point: EntryPoint) -> T:
        """Returns the value of an entry point.

        Raises:
            PluginError: it cannot be loaded, or is something else.
        """
        try:
            value: T = point.load()
        except Exception as error:
            why = f"{point.value} cannot be loaded ({type(error).__name__}: {error})"
            raise PluginError(self._refusal(point, why)) from error
        if not self._accepts(point.name, value):
            raise PluginError(self._refusal(point, f"{point.value} is no {self._kind} of that name"))
        return value

    def _refusal(self, point: EntryPoint, why: str) -> str:
        return (
            f"the {self._kind} `{point.name}` of the distribution {_distribution(point)} is left out: {why}"
        )


class LazyRegistry(Registry[T]):
    """Values by name, each loaded when it is asked for, for variants whose imports are slow or optional.

    One of ours has the name of its module.
    """

    def known(self) -> list[str]:
        """Returns all names, sorted, and imports none of them."""
        return sorted({*self._modules(), *self._plugins})

    def get(self, name: str) -> T:
        """Returns the value of a name.

        Raises:
            UserError: there is none, or its plugin cannot be loaded.
        """
        if name not in self._values:
            if name in self._modules():
                self._import(name)
            elif name in self._plugins:
                self._load(self._plugins[name])
            else:
                raise UserError(f"there is no {self._kind} `{name}`", f"Known: {', '.join(self.known())}.")
        return self._values[name]

    def _load(self, point: EntryPoint) -> None:
        try:
            self.add(point.name, self._plugin(point))
        except PluginError as error:
            raise UserError(str(error)) from None

    @functools.cached_property
    def _plugins(self) -> dict[str, EntryPoint]:
        """The entry points by name, without those whose names are taken."""
        ours, found = self._modules(), dict[str, EntryPoint]()
        for point in self._entry_points():
            if point.name in ours or point.name in found:
                _warn_once(self._refusal(point, "that name is taken"))
            else:
                found[point.name] = point
        return found


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "(unknown)"


@functools.cache
def _warn_once(text: str) -> None:
    log.warning("%s", text)
