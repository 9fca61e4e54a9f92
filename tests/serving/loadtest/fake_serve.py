"""Stands in for `lathe serve`: DIR/mock.json says how the mock behaves, or how serving fails."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import uvicorn

from lathe.serving.loadtest.mock import Mock, free_listener


def main() -> None:
    directory = Path(sys.argv[1])
    (directory / "arguments.json").write_text(json.dumps(sys.argv[2:]))
    behaviour = json.loads((directory / "mock.json").read_text())
    if behaviour.pop("dies", False):
        sys.exit("error: no such weights")
    stubborn = behaviour.pop("stubborn", False)
    listener = free_listener()
    (directory / "pid").write_text(str(os.getpid()))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    sys.stdout.write("a line that is not JSON\n" + json.dumps({"event": "loading"}) + "\n")
    sys.stdout.write(json.dumps({"event": "ready", "url": url, "model": directory.name}) + "\n")
    sys.stdout.flush()
    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (directory / "deaf").touch()
        time.sleep(120)
    app = Mock(model=directory.name, **behaviour).app()
    uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none")).run(sockets=[listener])


if __name__ == "__main__":
    main()
