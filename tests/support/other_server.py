"""Any application, served in a thread of the test's process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from lathe.serving.loadtest.mock import free_listener


@contextmanager
def serving(application: Any, **options: Any) -> Iterator[str]:
    """Its URL while the body runs; `options` are uvicorn's."""
    config = uvicorn.Config(application, log_level="critical", ws="none", lifespan="off", **options)
    server, listener = uvicorn.Server(config), free_listener()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        scheme = "https" if "ssl_certfile" in options else "http"
        yield f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
