"""A mock server on a free port, and places to serve from."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
import uvicorn

from serving.loadtest.mock import Mock, free_listener

ServeMock = Callable[[Mock], str]


@contextmanager
def serving(mock: Mock) -> Iterator[str]:
    listener = free_listener()
    server = uvicorn.Server(uvicorn.Config(mock.app(), log_level="critical", ws="none", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture
def serve_mock() -> Iterator[ServeMock]:
    with ExitStack() as stack:
        yield lambda mock: stack.enter_context(serving(mock))


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
