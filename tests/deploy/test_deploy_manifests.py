"""What has to agree between files of deploy/; schemas and rendering are for `make check-deploy`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.check.dockerfile import DOCKERFILE, health_command, last, stages, started
from deploy.check.programs import DEPLOY
from deploy.check.rules import alerts, groups
from lathe.serving.http.socket import GRACEFUL_SHUTDOWN_S
from lathe.serving.launch.engines.vllm import STOP_S

BASE = DEPLOY / "kustomize/base"
RAY = DEPLOY / "kustomize/overlays/ray/leaderworkerset.yaml"
PODS = ("deployment", "ray leader", "ray worker")


def load(file: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(file.read_text())
    return document


@pytest.fixture(params=PODS)
def pod(request: pytest.FixtureRequest) -> dict[str, Any]:
    return pods()[request.param]


def pods() -> dict[str, dict[str, Any]]:
    group = load(RAY)["spec"]["leaderWorkerTemplate"]
    deployment = load(BASE / "deployment.yaml")["spec"]["template"]
    specs = (deployment, group["leaderTemplate"], group["workerTemplate"])
    return {name: template["spec"] for name, template in zip(PODS, specs, strict=True)}


def pre_stop_s(pod: dict[str, Any]) -> int:
    seconds: int = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    return seconds


def drain_s(arguments: list[str]) -> int:
    return int(" ".join(arguments).split("--drain-timeout ")[1].split()[0])


@pytest.mark.parametrize("name", PODS[:2])
def test_a_replica_is_not_killed_while_it_drains(name: str):
    pod = pods()[name]
    needed = pre_stop_s(pod) + drain_s(pod["containers"][0]["args"]) + GRACEFUL_SHUTDOWN_S + STOP_S
    assert pod["terminationGracePeriodSeconds"] > needed


@pytest.mark.parametrize(("file", "selector"), [("disruption", "selector"), ("network", "podSelector")])
def test_what_protects_pods_names_them(file: str, selector: str):
    labels = {"app.kubernetes.io/name": "lathe"}
    assert load(BASE / f"{file}.yaml")["spec"][selector] == {"matchLabels": labels}


def test_ray_workers_outlive_the_drain_of_their_leader():
    leader, worker = (pods()[name] for name in PODS[1:])
    assert (
        pre_stop_s(worker)
        > pre_stop_s(leader) + drain_s(leader["containers"][0]["args"]) + GRACEFUL_SHUTDOWN_S
    )
    assert worker["terminationGracePeriodSeconds"] > pre_stop_s(worker)


@pytest.mark.parametrize(("file", "engine_s"), [("compose.yaml", 0.0), ("gpu.yaml", STOP_S)])
def test_compose_waits_for_the_drain(file: str, engine_s: float):
    text = (DEPLOY / "compose" / file).read_text().replace("!override", "")
    server = yaml.safe_load(text)["services"]["server"]
    grace = int(server["stop_grace_period"].removesuffix("s"))
    assert grace > drain_s(server["command"]) + GRACEFUL_SHUTDOWN_S + engine_s


def test_pods_are_confined(pod: dict[str, Any]):
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == int(last(stages(DOCKERFILE.read_text())["cpu"], "USER")[:5])
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not pod["automountServiceAccountToken"]
    assert all(m.get("readOnly") for m in container["volumeMounts"] if m["name"] in ("model", "key"))


def test_probes_ask_different_things():
    for name in PODS[:2]:
        container = pods()[name]["containers"][0]
        kinds = ("startup", "readiness", "liveness")
        paths = [container[f"{kind}Probe"]["httpGet"]["path"] for kind in kinds]
        assert paths == ["/health/ready", "/health/ready", "/health/live"]


def test_the_budget_protects_and_does_not_block():
    """One of two stays; were there one, its node could never be drained."""
    smallest = load(DEPLOY / "kustomize/components/keda/scaledobject.yaml")["spec"]["minReplicaCount"]
    replicas = {load(BASE / "deployment.yaml")["spec"]["replicas"], smallest, load(RAY)["spec"]["replicas"]}
    assert min(replicas) > load(BASE / "disruption.yaml")["spec"]["minAvailable"] >= 1


def test_threads_are_the_cores_that_are_asked_for():
    [patch] = load(DEPLOY / "kustomize/overlays/cpu/kustomization.yaml")["patches"]
    values = [change["value"] for change in yaml.safe_load(patch["patch"])]
    assert values[0] == "--threads"
    assert values[1] == values[2]["requests"]["cpu"] == values[2]["limits"]["cpu"]
    assert values[2]["requests"] == values[2]["limits"]


def test_prometheus_sends_the_key_that_the_server_asks_for():
    monitor = load(DEPLOY / "kustomize/components/monitoring/servicemonitor.yaml")
    credentials = monitor["spec"]["endpoints"][0]["authorization"]["credentials"]
    [volume] = [v for v in pods()["deployment"]["volumes"] if v["name"] == "key"]
    assert credentials["name"] == volume["secret"]["secretName"]
    [variable] = pods()["deployment"]["containers"][0]["env"]
    assert variable == {"name": "LATHE_API_KEY_FILE", "value": f"/run/secrets/lathe/{credentials['key']}"}


def test_the_operators_rules_are_prometheus_rules():
    manifest = load(DEPLOY / "kustomize/components/monitoring/prometheusrule.yaml")
    assert manifest["spec"]["groups"] == groups()


def test_every_alert_has_a_page_to_read():
    page = (DEPLOY.parent / "docs/runbook.md").read_text()
    headings = {heading.lower() for heading in re.findall(r"^## (\w+)$", page, re.MULTILINE)}
    names = [alert["alert"].lower() for alert in alerts()]
    assert sorted(names) == sorted(headings)
    assert [a["annotations"]["runbook"] for a in alerts()] == [f"docs/runbook.md#{name}" for name in names]


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_an_image_starts_the_server_as_nobody_in_particular(target: str):
    found = stages(DOCKERFILE.read_text())
    assert list(found)[-1] == "cpu"  # what `docker build` makes when it is not told
    stage = found[target]
    assert last(stage, "USER") == "10001:10001"
    assert last(stage, "STOPSIGNAL") == "SIGTERM"
    assert started(stage)[:3] == ["lathe", "serve", "/model"]
    assert ("vllm" in started(stage)) == (target == "gpu")
    assert "/health/ready" in health_command(stage)[-1]


def test_images_are_pinned_by_digest():
    arguments = [value for name, value in stages(DOCKERFILE.read_text())[""] if name == "ARG"]
    services = load(DEPLOY / "compose/compose.yaml")["services"]
    others = [service["image"] for name, service in services.items() if name != "server"]
    assert len(arguments) == len(others) == 2
    assert all(re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", image) for image in (*arguments, *others))


def test_the_command_has_to_be_in_exec_form():
    with pytest.raises(ValueError, match="Expecting value"):
        started(stages("FROM x AS y\nENTRYPOINT lathe serve\nCMD []")["y"])
