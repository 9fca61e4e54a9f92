"""Two servers started, loaded interleaved and stopped, whatever happens."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from lathe.artefact.errors import UserError
from lathe.serving.loadtest import servers
from lathe.serving.loadtest.compare import compare
from lathe.serving.loadtest.load import Load
from lathe.serving.loadtest.measure import Round
from lathe.serving.loadtest.progress import Quiet
from lathe.serving.loadtest.prompts import PromptChoice
from lathe.serving.loadtest.testbed import Serving, Setup

FAKE = (sys.executable, str(Path(__file__).parent / "fake_serve.py"))
LOAD = Load(concurrency=2, requests=4, warmup=1, output_tokens=3)


class Listener(Quiet):
    def __init__(self) -> None:
        self.order: list[str] = []

    def end_round(self, name: str, one: Round) -> None:
        self.order.append(name)


def place(root: Path, name: str, **behaviour: Any) -> Path:
    directory = root / name
    directory.mkdir()
    (directory / "mock.json").write_text(json.dumps(behaviour))
    return directory


def gone(directory: Path) -> bool:
    return not psutil.pid_exists(int((directory / "pid").read_text()))


def test_two_servers_are_compared_in_alternating_rounds(tmp_path: Path) -> None:
    dense = place(tmp_path, "dense", ttft_s=0.2, metrics="lathe_model_weight_bytes 400\n")
    subnet = place(tmp_path, "subnet", metrics="lathe_model_weight_bytes 100\n")
    heard = Listener()
    found = compare(
        subnet,
        dense,
        LOAD,
        rounds=3,
        setup=Setup(PromptChoice(tokens=8), Serving(FAKE, extra=["--threads", "1"]), progress=heard),
    )
    assert heard.order == ["dense", "subnet", "subnet", "dense", "dense", "subnet"]
    assert list(found["systems"]) == ["dense", "subnet"]
    for name, system in found["systems"].items():
        assert (system["model"], system["requests"], system["failed"]) == (name, 12, 0)
        assert system["memory"]["peak_rss_bytes"] > 1_000_000
    assert found["ratios"]["model_weight_bytes"]["median"] == 0.25
    ttft = found["ratios"]["ttft_ms.p50"]
    assert len(ttft["rounds"]) == 3
    assert ttft["min"] <= ttft["median"] <= ttft["max"]
    assert found["systems"]["dense"]["ttft_ms"]["min"] >= 200
    assert json.loads((dense / "arguments.json").read_text()) == ["--port", "0", "--json", "--threads", "1"]
    assert gone(dense)
    assert gone(subnet)


def test_a_server_that_dies_is_quoted_and_the_other_is_stopped(tmp_path: Path) -> None:
    dense, subnet = place(tmp_path, "dense"), place(tmp_path, "subnet", dies=True)
    with pytest.raises(UserError, match=r"subnet ended before it was ready: error: no such weights"):
        compare(subnet, dense, LOAD, setup=Setup(serving=Serving(FAKE)))
    assert gone(dense)


def test_a_server_that_ignores_the_request_to_stop_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "STOP_SECONDS", 0.3)
    stubborn = place(tmp_path, "stubborn", stubborn=True)
    with servers.served(stubborn, FAKE) as server:
        while not (stubborn / "deaf").exists():
            time.sleep(0.01)
        assert server.model == "stubborn"
    assert gone(stubborn)


def test_a_server_that_is_never_ready_is_stopped(tmp_path: Path) -> None:
    silent = (sys.executable, "-c", "import time; time.sleep(60)")
    with pytest.raises(UserError, match="was not ready after"), servers.served(tmp_path, silent, ready_s=0.3):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_test_leaves_no_server(tmp_path: Path, number: signal.Signals) -> None:
    dense = place(tmp_path, "dense", metrics="", ttft_s=0.05)
    subnet = place(tmp_path, "subnet", metrics="", ttft_s=0.05)
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"  # ignored under nohup
        "from lathe.serving.loadtest.testbed import *; from lathe.serving.loadtest.compare import *;"
        f"compare({str(subnet)!r}, {str(dense)!r}, Load(concurrency=1, duration_s=60),"
        f"setup=Setup(serving=Serving({FAKE!r})))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 30
            while not (dense / "pid").exists() or not (subnet / "pid").exists():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            os.kill(process.pid, number)
            assert process.wait(30) != 0
        finally:
            process.kill()
    assert gone(dense)
    assert gone(subnet)
