"""Named variants, each registered by its own module: a variant is added by adding a file."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from lathe.artefact.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """Values by name. `package` is the dotted package whose modules register themselves when imported;
    it is imported on the first look-up.
    """

    def __init__(self, kind: str, package: str) -> None:
        self._kind, self._package = kind, package
        self._values: dict[str, T] = {}
        self._imported = False

    def add(self, name: str, value: T) -> T:
        """Make a value known by a name."""
        self._values[name] = value
        return value

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator form of `add`."""
        return lambda value: self.add(name, value)

    def known(self) -> list[str]:
        """All names."""
        self._import_all()
        return sorted(self._values)

    def get(self, name: str) -> T:
        """The value called `name`.

        Raises:
            UserError: there is none; names those that there are.
        """
        self._import_all()
        if name not in self._values:
            raise UserError(f"there is no {self._kind} `{name}`", f"Known: {', '.join(self.known())}.")
        return self._values[name]

    def _import_all(self) -> None:
        if self._imported:
            return
        self._imported = True
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules([str(Path(p)) for p in package.__path__]):
            importlib.import_module(f"{self._package}.{module.name}")
