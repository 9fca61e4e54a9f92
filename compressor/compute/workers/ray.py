"""Workers as actors of Ray: processes on this machine or on others, which see the same files.

A worker that is lost (killed, out of memory, its machine gone) is replaced by a new one and its piece of work
done again; if no new one comes up, the others go on. If nobody is left, or a piece of work loses worker after
worker, the run ends with an error; finished work is in the run directory.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Concatenate, ParamSpec, TypeVar

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, OutOfMemoryError, RayActorError, RayError

from lathe.artefact.errors import UserError
from lathe.compressor.compute.workers.actor import KNOWN, Worker, result_of
from lathe.compressor.compute.workers.ray_config import RayConfig
from lathe.compressor.compute.workers.serialization import pack
from lathe.compressor.compute.workers.shards import SHARDS, Sharded

Item = TypeVar("Item")
Result = TypeVar("Result")
Part = TypeVar("Part")
P = ParamSpec("P")

_LIVES = 3
"""Workers that a piece of work may take with it."""
_START, _FREE = 60.0, 10.0
"""Seconds that a worker has to come up, and that a lost one's cores have to become free for another."""
_STORE = 2**30
"""Bytes of memory that what travels within this machine may take."""
_REMEDY = "Run the same command again: what was finished is kept. Fewer workers, or none, need less memory."
_JOIN = "Start one (`ray start --head`); set RAY_AUTH_MODE=token where it asks for a token."
_LOST = (RayActorError, OutOfMemoryError, ObjectLostError)


class RayWorkers:
    """Workers of a Ray cluster, which it starts or joins."""

    def __init__(self, place: RayConfig) -> None:
        """Starts or joins the cluster and waits until every worker is up.

        Raises:
            UserError: there is no such cluster, or no worker came up.
        """
        self._scratch = tempfile.TemporaryDirectory(prefix="lathe-ray-", ignore_cleanup_errors=True)
        self._sent: OrderedDict[int, tuple[int, Any, list[Any]]] = OrderedDict()
        self._started = self._numbers = 0
        self._names: dict[Any, str] = {}
        try:
            self.threads, count = self._join(place)
            started = [self._start() for _ in range(count)]
            self._alive = [worker for worker in started if self._greeted(worker)]
        except BaseException:
            self.close()
            raise
        if not self._alive:
            self.close()
            raise UserError("no worker came up", f"{_REMEDY} Is the cluster busy?")

    @property
    def count(self) -> int:
        return len(self._alive)

    def _join(self, place: RayConfig) -> tuple[int, int]:
        """Threads of a worker, and how many workers there is room for."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if place.workers:
            threads = place.own_threads
            ray.init(
                "local",
                num_cpus=threads * place.workers,
                num_gpus=0,
                include_dashboard=False,
                object_store_memory=_STORE,
                _temp_dir=self._scratch.name,
                _node_ip_address="127.0.0.1",
                **quiet,
            )
            return threads, place.workers
        try:
            ray.init(place.address, **quiet)
        except (ConnectionError, RayError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"there is no Ray cluster at {place.address}: {reason}", _JOIN) from None
        cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        threads = place.threads or min(c for c in cores if c)
        return threads, sum(c // threads for c in cores)

    def map(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        number, sent = self._send(task)
        queue, again = enumerate(items), list[tuple[int, Any]]()
        running: dict[Any, tuple[Any, tuple[int, Any]]] = {}
        done, lost, turn, idle = dict[int, Result](), dict[int, int](), 0, list(self._alive)
        while True:
            while idle and (job := again.pop() if again else next(queue, None)):
                worker = idle.pop(0)
                running[worker.map.remote(number, sent, pack(job[1]))] = worker, job
            while turn in done:
                yield done.pop(turn)
                turn += 1
            if not running:
                return
            ((ready,), _) = ray.wait(list(running))
            worker, job = running.pop(ready)
            try:
                done[job[0]] = result_of(ready)
                idle.append(worker)
            except _LOST as error:
                lost[job[0]] = lost.get(job[0], 0) + 1
                idle += self._replaced(worker, lost[job[0]], error)
                again.append(job)

    def map_shards(
        self,
        text: Sharded[Part],
        method: Callable[Concatenate[Part, P], Iterable[Iterable[Result]]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Iterator[Iterable[Result]]:
        (number, sent), question = self._send(text), ray.put(pack((method, args, kwargs)))
        answers, lost = dict[range, list[list[Result]]](), dict[range, int]()
        while True:
            workers = self._alive[:SHARDS]
            bounds = [SHARDS * index // len(workers) for index in range(len(workers) + 1)]
            parts = [range(*bounds[index : index + 2]) for index in range(len(workers))]
            asked = {
                part: (worker, worker.map_shards.remote(number, sent, part, question))
                for part, worker in zip(parts, workers, strict=True)
                if part not in answers
            }
            if not asked:
                break
            for part, (worker, answer) in asked.items():
                try:
                    answers[part] = result_of(answer)
                except _LOST as error:
                    lost[part] = lost.get(part, 0) + 1
                    self._replaced(worker, lost[part], error)
        for step in zip(*(answers[part] for part in parts), strict=True):
            yield [value for part in step for value in part]

    def close(self) -> None:
        """Lets the workers go, and ends the cluster if it is this run's own."""
        ray.shutdown()
        self._scratch.cleanup()

    def _send(self, task: Any) -> tuple[int, list[Any]]:
        """A task's number and, in a list so that it stays where it is, what it is made from."""
        known = self._sent.get(id(task))
        if known is None:
            while len(self._sent) >= KNOWN:
                self._sent.popitem(last=False)
            self._numbers += 1
            known = self._sent[id(task)] = self._numbers, task, [ray.put(pack(task))]
        return known[0], known[2]

    def _start(self) -> Any:
        worker = ray.remote(Worker).options(num_cpus=self.threads, max_restarts=0).remote(self.threads)
        self._started += 1
        self._names[worker] = f"worker {self._started}"
        return worker

    def _greeted(self, worker: Any) -> bool:
        """Returns whether a worker came up."""
        try:
            self._names[worker] += f" ({ray.get(worker.hello.remote(), timeout=_START)})"
        except (GetTimeoutError, *_LOST):
            ray.kill(worker)
            del self._names[worker]
            return False
        return True

    def _store(self) -> bool:
        """Returns whether the cluster has cores for one more worker."""
        end = time.monotonic() + _FREE
        while time.monotonic() < end:
            if ray.available_resources().get("CPU", 0.0) >= self.threads:
                return True
            time.sleep(0.2)
        return False

    def _replaced(self, worker: Any, lost: int, error: RayError) -> list[Any]:
        """Returns the workers in place of a lost one: none if no other came up.

        Args:
            worker: The lost one.
            lost: The number of workers that this piece of work lost.
            error: The reason.

        Raises:
            UserError: too many were lost, or nobody is left.
        """
        name, at = self._names.pop(worker), self._alive.index(worker)
        if lost >= _LIVES:
            raise UserError(
                f"{name} was lost, the {lost}rd in a row on the same piece of work: {_reason(error)}", _REMEDY
            )
        if self._store() and self._greeted(new := self._start()):
            self._alive[at] = new
            return [new]
        del self._alive[at]
        if not self._alive:
            raise UserError(f"{name} was lost, no other came up, and none is left", _REMEDY)
        return []


def _reason(error: RayError) -> str:
    return str(error).strip().splitlines()[0]
