"""Real servers under the image's conditions, scraped by a real Prometheus: does everything get an answer?"""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterable
from pathlib import Path

from deploy.check import expressions
from deploy.check.dockerfile import DOCKERFILE, health_command, stages
from deploy.check.expressions import Expression
from deploy.check.load import ask, load
from deploy.check.programs import IMAGE
from deploy.check.prometheus import Prometheus, prometheus
from deploy.check.report import Row
from deploy.check.sandbox import Container, container

KEY = "check-deploy"
NVML = Path(__file__).with_name("nvml")
ANSWER_S = 45.0
"""How long series may take to appear: rates need a window with two scrapes in it."""


def check(model: Path) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="lathe-deploy-") as directory:
        scratch = Path(directory)
        key = scratch / "key"
        key.write_text(KEY)
        key.chmod(0o644)
        scratch.chmod(0o755)
        return [*_answers(model, key, scratch), *_container(model, key)]


def _answers(model: Path, key: Path, scratch: Path) -> list[Row]:
    with container(model, key) as plain, container(model, key, overlaid=NVML) as with_nvml:
        plain.wait_ready()
        with_nvml.wait_ready()
        urls = [plain.url, with_nvml.url]
        targets = [url.removeprefix("http://") for url in urls]
        with prometheus(scratch, targets, key) as server, load(urls, KEY):
            return [
                _all_answer(
                    server, "panels answer", (one for one in expressions.of_panels() if not one.of_family)
                ),
                _all_answer(server, "rules and alerts answer", expressions.of_rules()),
                _all_answer(server, "scaler's queries answer", expressions.of_scaler()),
                _control(server),
                _variable(server),
                _health(server),
            ]


def _all_answer(server: Prometheus, title: str, asked: Iterable[Expression]) -> Row:
    """Each with at least one number; those of a GPU are answered by the server with the stand-in for NVML."""
    every = list(asked)
    left, deadline = every, time.monotonic() + ANSWER_S
    while left and time.monotonic() < deadline:
        left = [expression for expression in left if not server.values(expression.text)]
        time.sleep(0.5 if left else 0)
    of_gpu = sum(expression.of_gpu for expression in every)
    result = f"{len(every) - len(left)} of {len(every)} expressions, {of_gpu} of them of GPU memory"
    return Row(title, result, [f"no data: {expression.where}: {expression.text}" for expression in left])


def _control(server: Prometheus) -> Row:
    absent = "sum(rate(lathe_no_such_metric_total[20s]))"
    found = [f"{absent} has an answer"] if server.values(absent) else []
    return Row("a metric that is not there", "no answer", found)


def _variable(server: Prometheus) -> Row:
    models = server.get("label/model/values", **{"match[]": "lathe_model_info"})
    wrong = [] if models == ["lathe"] else [f"its values are {models}"]
    return Row("variable $model", ", ".join(models), wrong)


def _health(server: Prometheus) -> Row:
    rules = [rule for group in server.get("rules")["groups"] for rule in group["rules"]]
    sick = [f"{rule['name']}: {rule.get('lastError')}" for rule in rules if rule["health"] != "ok"]
    targets = server.get("targets")["activeTargets"]
    sick += [f"{t['scrapeUrl']}: {t['lastError']}" for t in targets if t["health"] != "up"]
    return Row("Prometheus is content", f"{len(rules)} rules evaluated, {len(targets)} targets scraped", sick)


def _container(model: Path, key: Path) -> list[Row]:
    """From its start to its end, twice."""
    with container(model, key) as early:
        loading = _told_while_loading(early)
    with container(model, key) as server:
        server.wait_ready()
        confined = Row("confined as in the image", "uid 10001, no capabilities, read-only", _confined(server))
        healthy = [_healthcheck(server)]
        drained = _told_while_answering(server)
        healthy.append(_healthcheck(server))
    wrong = [] if healthy == [0, 1] else [f"its exit status is {healthy}"]
    return [loading, confined, Row("HEALTHCHECK", "0 when ready, 1 when gone", wrong), drained]


def _told_while_loading(server: Container) -> Row:
    while not server.handles_sigterm():
        time.sleep(0.01)
    loading = server.status("/health/ready") != 200
    server.stop()
    status = server.process.wait(30)
    wrong = [] if loading and status == 143 else [f"loading: {loading}, exit status {status}"]
    return Row("SIGTERM as PID 1 while it loads", f"exit status {status}", wrong)


def _told_while_answering(server: Container) -> Row:
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(ask(server.url, KEY, max_tokens=200)))
    reader.start()
    while reader.is_alive() and not _running(server):
        time.sleep(0.005)
    server.stop()
    reader.join(60)
    status = server.process.wait(60)
    result = f"last line {lines[-1:]}, exit status {status}"
    wrong = [] if lines[-1:] == ["data: [DONE]"] and status == 0 else [result]
    return Row("SIGTERM as PID 1, an answer under way", result, wrong)


def _confined(server: Container) -> list[str]:
    status = Path(f"/proc/{server.pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    mounts = Path(f"/proc/{server.pid}/mounts").read_text().splitlines()
    writable = {m.split()[1] for m in mounts if m.split()[3].split(",")[0] == "rw"}
    uid_map = Path(f"/proc/{server.pid}/uid_map").read_text().split()
    found = {
        "first process": (fields["NSpid"].split()[-1], "1"),
        "effective capabilities": (int(fields["CapEff"], 16), 0),
        "no new privileges": (fields["NoNewPrivs"], "1"),
        "user": (uid_map[0], "10001"),
        "/ or a mount of data is writable": (writable & {"/", "/usr", "/etc", "/model", str(IMAGE)}, set()),
    }
    return [f"{name}: {is_} instead of {wanted}" for name, (is_, wanted) in found.items() if is_ != wanted]


def _running(server: Container) -> bool:
    request = urllib.request.Request(f"{server.url}/metrics", headers={"authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return 'lathe_requests_running{model="lathe"} 1.0' in answer.read().decode()


def _healthcheck(server: Container) -> int:
    """The image's own command, on this server's port."""
    command = health_command(stages(DOCKERFILE.read_text())["cpu"])
    ours = [part.replace("http://127.0.0.1:8000", server.url) for part in command]
    done = subprocess.run([IMAGE / "bin" / ours[0], *ours[1:]], stderr=subprocess.DEVNULL, check=False)
    return done.returncode
