"""A worker as an actor of Ray, and what it answers."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import ray
import torch

from lathe.artefact.errors import UserError
from lathe.compressor.compute.workers.serialization import Message, pack, unpack

KNOWN = 2
"""Tasks and texts that a worker keeps open."""


class Worker:
    """A worker in a process of its own."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._open: OrderedDict[int, Any] = OrderedDict()

    def hello(self) -> str:
        return f"process {os.getpid()} on {ray.util.get_node_ip_address()}"

    def map(self, number: int, sent: list[Any], item: Message) -> Message:
        return _answer(lambda: self._opened(number, sent)(unpack(item)))

    def map_shards(self, number: int, sent: list[Any], shards: range, question: Message) -> Message:
        def found() -> list[Any]:
            method, args, kwargs = unpack(question)
            return [[*step] for step in method(self._opened(number, sent).attach(shards), *args, **kwargs)]

        return _answer(found)

    def _opened(self, number: int, sent: list[Any]) -> Any:
        if number not in self._open:
            while len(self._open) >= KNOWN:
                self._open.popitem(last=False)
            self._open[number] = unpack(ray.get(sent[0]))
        self._open.move_to_end(number)
        return self._open[number]


def _answer(work: Callable[[], Any]) -> Message:
    try:
        return pack((work(), None))
    except UserError as error:
        return pack((None, error))


def result_of(answer: Any) -> Any:
    """Returns the result of a worker.

    Raises:
        UserError: what it said was wrong.
        RayError: it is lost.
    """
    found, error = unpack(ray.get(answer))
    if error is not None:
        raise error
    return found
