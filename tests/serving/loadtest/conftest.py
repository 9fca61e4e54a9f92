"""A mock server on a free port, and places to serve from."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from lathe.serving.loadtest.mock import Mock
from support.other_server import serving

ServeMock = Callable[[Mock], str]


@pytest.fixture
def serve_mock() -> Iterator[ServeMock]:
    with ExitStack() as stack:
        yield lambda mock: stack.enter_context(serving(mock.app()))


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
