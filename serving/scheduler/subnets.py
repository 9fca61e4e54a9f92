"""The engines of a family's subnets as one `ServingBackend`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lathe.serving.backend import (
    Dispatch,
    GenerationRequest,
    OutputCallback,
    RequestHandle,
    ServingBackend,
    run_callbacks,
)


class SubnetsBackend:
    """Gives every call to the engine of the subnet that its requests name.

    The engines have one admission, so that the limit of unfinished sequences and draining are common.
    Attributes that are not sums are those of the widest subnet; engines of one family agree in them.
    """

    def __init__(self, backends: Mapping[str, ServingBackend]) -> None:
        """Creates the backend; `backends` by the names of the plans, widest first."""
        self._backends = dict(backends)
        widest = next(iter(backends.values()))
        self.capacity, self.max_batch, self.max_length = (
            widest.capacity,
            widest.max_batch,
            widest.max_length,
        )
        self.vocab_size, self.eos = widest.vocab_size, widest.eos
        self.weight_bytes, self.prompt_engine = widest.weight_bytes, widest.prompt_engine
        self.kv_cache_bytes, self.kv_bytes_per_token = widest.kv_cache_bytes, widest.kv_bytes_per_token

    def add_requests(
        self,
        requests: Sequence[GenerationRequest],
        callback: OutputCallback,
        dispatch: Dispatch = run_callbacks,
    ) -> RequestHandle:
        return self._backends[requests[0].subnet].add_requests(requests, callback, dispatch)

    def check_capacity(self, count: int) -> None:
        for backend in self._backends.values():
            backend.check_capacity(count)

    def warm_up(self) -> None:
        for backend in self._backends.values():
            backend.warm_up()

    def drain(self, timeout: float) -> bool:
        return all(backend.drain(timeout) for backend in self._backends.values())

    def close(self) -> None:
        for backend in self._backends.values():
            backend.close()

    @property
    def healthy(self) -> bool:
        return all(backend.healthy for backend in self._backends.values())

    @property
    def num_running(self) -> int:
        return sum(backend.num_running for backend in self._backends.values())

    @property
    def num_waiting(self) -> int:
        return sum(backend.num_waiting for backend in self._backends.values())

    @property
    def waiting_since(self) -> float | None:
        times = [backend.waiting_since for backend in self._backends.values()]
        return min((since for since in times if since is not None), default=None)

    @property
    def kv_cache_usage(self) -> float:
        return sum(backend.kv_cache_usage for backend in self._backends.values())

    @property
    def kv_reserved_bytes(self) -> int:
        return sum(backend.kv_reserved_bytes for backend in self._backends.values())

    @property
    def kv_resident_bytes(self) -> int:
        return sum(backend.kv_resident_bytes for backend in self._backends.values())

    @property
    def kv_prefix_bytes(self) -> int:
        return sum(backend.kv_prefix_bytes for backend in self._backends.values())
