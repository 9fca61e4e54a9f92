"""The contract of workers, and doing everything in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from lathe.compressor.compute.workers.shards import SHARDS, Sharded

Item = TypeVar("Item")
Result = TypeVar("Result")
Part = TypeVar("Part")
P = ParamSpec("P")


class Workers(Protocol):
    """Does pieces of work. What comes out does not depend on who did them.

    Tasks, sharded texts, items and results may travel: they are picklable, and a task or a text that opens
    what it needs only when it is asked is opened once by a worker.

    Raises:
        UserError: a piece of work did, or workers were lost and nobody is left.
    """

    @property
    def count(self) -> int:
        """The number of workers."""

    def map(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Applies a task to every item, and yields results in order; an item goes to whoever is free."""

    def map_shards(
        self,
        text: Sharded[Part],
        method: Callable[Concatenate[Part, P], Iterable[Iterable[Result]]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Iterator[Iterable[Result]]:
        """Applies a method to every shard of a text, and yields its values in order, step by step.

        Which worker has which shards stays the same from one call to the next as long as none is lost, so
        that a worker may keep intermediate results.

        Args:
            text: The text, in shards.
            method: A method of the object that `attach` returns; it yields values by shard, to be taken
                before the next step is asked for.
            args: Of the method.
            kwargs: Of the method.
        """

    def close(self) -> None:
        """Lets the workers go."""


class LocalWorkers:
    """All of it in this process, piece by piece, when it is asked for."""

    count = 1

    def map(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        return map(task, items)

    def map_shards(
        self,
        text: Sharded[Part],
        method: Callable[Concatenate[Part, P], Iterable[Iterable[Result]]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Iterator[Iterable[Result]]:
        return iter(method(text.attach(range(SHARDS)), *args, **kwargs))

    def close(self) -> None:
        pass
