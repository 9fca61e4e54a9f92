"""Requests of several kinds, for as long as a block runs."""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

CLIENTS = 3
"""Of each server."""
SHARED = [7] * 200
"""The prompt's tokens: more than a chunk of the prefix cache."""


def ask(url: str, key: str, **body: Any) -> list[str]:
    """The lines of a streamed answer. Raises OSError."""
    document = {"model": "lathe", "prompt": "The boy", "ignore_eos": True, "stream": True} | body
    request = urllib.request.Request(
        f"{url}/v1/completions",
        json.dumps(document).encode(),
        {"content-type": "application/json", "authorization": f"Bearer {key}"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return [line.decode().strip() for line in answer if line.strip()]


@contextlib.contextmanager
def load(urls: Sequence[str], key: str) -> Iterator[None]:
    """Streams of 32 tokens after the same prompt, and now and then a request that is refused as invalid."""
    stopping = threading.Event()

    def client(url: str) -> None:
        count = 0
        while not stopping.is_set():
            count += 1
            with contextlib.suppress(urllib.error.HTTPError):
                ask(url, key, prompt=SHARED, max_tokens=32 if count % 8 else -1)

    threads = [threading.Thread(target=client, args=(url,)) for url in urls for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
