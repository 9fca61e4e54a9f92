"""A container's conditions without a container, by bubblewrap.

What the Dockerfile's cpu target installs and starts, as its user, with a read-only root, without
capabilities, as the first process of its own namespace.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.check.dockerfile import DOCKERFILE, last, stages, started
from deploy.check.programs import DEBIAN, IMAGE, free_port

START_S = 120.0
SIGTERM_CAUGHT = 1 << (signal.SIGTERM - 1)


@dataclass
class Container:
    """`pid` is the server's, seen from outside."""

    url: str
    pid: int
    process: subprocess.Popen[bytes]

    def status(self, path: str) -> int:
        """Of a GET; 0 while nothing answers."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def wait_ready(self) -> None:
        """Raises RuntimeError."""
        deadline = time.monotonic() + START_S
        while self.status("/health/ready") != 200:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the server did not become ready; what it said is above")
            time.sleep(0.1)

    def handles_sigterm(self) -> bool:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        caught = next(line for line in lines if line.startswith("SigCgt"))
        return bool(int(caught.split()[1], 16) & SIGTERM_CAUGHT)

    def stop(self) -> None:
        """What `docker stop` sends."""
        os.kill(self.pid, signal.SIGTERM)


@contextlib.contextmanager
def container(model: Path, key: Path, overlaid: Path | None = None) -> Iterator[Container]:
    """The image's own command on a free port of 127.0.0.1; `overlaid` comes first on the Python path."""
    stage = stages(DOCKERFILE.read_text())["cpu"]
    port = free_port()
    binds = {IMAGE: IMAGE, model: Path("/model"), key: Path("/run/secrets/api_key")}
    variables = _environment(stage) | {"LATHE_API_KEY_FILE": "/run/secrets/api_key"}
    if overlaid is not None:
        binds[overlaid] = Path("/overlaid")
        variables["PYTHONPATH"] = "/overlaid"
    command = [part.replace("0.0.0.0", "127.0.0.1") for part in started(stage)]
    command += ["--port", str(port), "--served-model-name", "lathe", "--threads", "1"]
    command += ["--prefix-cache", "1024"]
    read, write = os.pipe()
    line = [*_bubblewrap(last(stage, "USER"), binds, variables), "--info-fd", str(write), "--", *command]
    process = subprocess.Popen(line, pass_fds=(write,), stdout=subprocess.DEVNULL)
    os.close(write)
    try:
        with os.fdopen(read) as info:
            pid = json.load(info)["child-pid"]
        yield Container(f"http://127.0.0.1:{port}", pid, process)
    finally:
        process.kill()  # the namespace dies with it
        process.wait()


def _bubblewrap(user: str, binds: Mapping[Path, Path], variables: Mapping[str, str]) -> list[str]:
    uid, _, gid = user.partition(":")
    line = [
        str(DEBIAN / "bwrap"),
        "--unshare-all",
        "--share-net",
        "--as-pid-1",
        "--die-with-parent",
        "--new-session",
        "--uid",
        uid,
        "--gid",
        gid,
        "--cap-drop",
        "ALL",
        "--clearenv",
        "--ro-bind",
        "/usr",
        "/usr",
        "--ro-bind",
        "/etc",
        "/etc",
        "--symlink",
        "usr/bin",
        "/bin",
        "--symlink",
        "usr/lib",
        "/lib",
        "--symlink",
        "usr/lib64",
        "/lib64",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--tmpfs",
        "/tmp",
    ]
    python = Path(sys.base_prefix)
    for source, target in {**({} if python.is_relative_to("/usr") else {python: python}), **binds}.items():
        line += ["--ro-bind", str(source), str(target)]
    for name, value in variables.items():
        line += ["--setenv", name, value]
    return [*line, "--remount-ro", "/"]


def _environment(stage: list[tuple[str, str]]) -> dict[str, str]:
    """The stage's ENV; the packages are in an environment of this tree instead of /opt/lathe."""
    pairs = (pair for name, value in stage if name == "ENV" for pair in value.split())
    found = dict(pair.split("=", 1) for pair in pairs)
    found["PATH"] = found["PATH"].replace("/opt/lathe", str(IMAGE)).replace("$PATH", "/usr/bin:/bin")
    return found
