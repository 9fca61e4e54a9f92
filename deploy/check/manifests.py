"""Every overlay rendered, and every object in it held against a strict schema."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from deploy.check.programs import DEPLOY, kubectl, run
from deploy.check.report import Row

OVERLAYS = DEPLOY / "kustomize/overlays"
SCHEMAS = Path(__file__).with_name("schemas")
Manifest = dict[str, Any]
_SELECTS = {"PodDisruptionBudget": "selector", "NetworkPolicy": "podSelector"}
"""Where kustomize's labels add no selector that is not there, and schemas ask for none."""


def overlays() -> list[str]:
    return sorted(path.parent.name for path in OVERLAYS.glob("*/kustomization.yaml"))


@lru_cache
def render(overlay: str) -> tuple[Manifest, ...]:
    status, output = run(kubectl(), "kustomize", OVERLAYS / overlay)
    if status:
        raise RuntimeError(f"kustomize cannot render {overlay}: {output}")
    return tuple(yaml.safe_load_all(output))


def check() -> list[Row]:
    rows = []
    for overlay in overlays():
        findings = [finding for manifest in render(overlay) for finding in complaints(manifest)]
        kinds = ", ".join(sorted({manifest["kind"] for manifest in render(overlay)}))
        rows.append(Row(f"overlay {overlay}", f"{len(render(overlay))} objects: {kinds}", findings))
    return [*rows, _control()]


def complaints(manifest: Manifest) -> list[str]:
    """What is wrong with it by Kubernetes' own schema, or by ours of the fields that we use of a CRD."""
    name = f"{manifest['kind']} {manifest['metadata']['name']}"
    schema = SCHEMAS / f"{manifest['kind'].lower()}.json"
    found = _against(schema, manifest) if schema.exists() else _strict(manifest)
    found += [problem for pod in embedded_pods(manifest) for problem in _strict(pod)]
    selector = _SELECTS.get(manifest["kind"])
    if selector and not manifest["spec"].get(selector):
        found.append(f"spec.{selector} is empty: not our pods alone, or none")
    return [f"{name}: {problem}" for problem in found]


def embedded_pods(manifest: Manifest) -> list[Manifest]:
    """The pod templates of a LeaderWorkerSet as pods, whose schema Kubernetes has."""
    templates = manifest.get("spec", {}).get("leaderWorkerTemplate", {})
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"]}
        for template in (templates.get("leaderTemplate"), templates.get("workerTemplate"))
        if template
    ]


def _strict(manifest: Manifest) -> list[str]:
    import kubernetes_validate

    version = kubernetes_validate.latest_version()
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [error.message]
    except kubernetes_validate.SchemaNotFoundError as error:
        return [f"no schema: {error}"]
    return []


def _against(schema: Path, manifest: Manifest) -> list[str]:
    import jsonschema

    validator = jsonschema.Draft202012Validator(json.loads(schema.read_text()))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]


def _control() -> Row:
    """One misspelt field in every object: all have to be noticed."""
    missed = []
    manifests = {m["kind"]: m for overlay in overlays() for m in render(overlay)}
    for kind, manifest in manifests.items():
        broken = json.loads(json.dumps(manifest))
        broken.setdefault("spec", broken)["minAvailble"] = 1
        missed += [] if complaints(broken) else [f"a misspelt field in a {kind} is not noticed"]
    noticed = len(manifests) - len(missed)
    return Row("misspelt fields are noticed", f"in {noticed} of {len(manifests)} kinds", missed)
