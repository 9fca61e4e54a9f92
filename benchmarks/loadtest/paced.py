"""Serves the mock at a set pace, as `lathe.serving.loadtest.servers.served` starts servers.

python -m benchmarks.loadtest.paced TTFT_MS ITL_MS DIRECTORY --port 0 --json
"""

from __future__ import annotations

import json
import sys

import uvicorn

from lathe.serving.loadtest.mock import Mock, free_listener


def main() -> None:
    ttft_ms, itl_ms = map(float, sys.argv[1:3])
    listener = free_listener()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    print(json.dumps({"event": "ready", "url": url, "model": "mock"}), flush=True)
    app = Mock(ttft_s=ttft_ms / 1e3, itl_s=itl_ms / 1e3).app()
    uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none", lifespan="off")).run(
        sockets=[listener]
    )


if __name__ == "__main__":
    main()
