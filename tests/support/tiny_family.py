"""A family of two tiny subnets with one tokenizer, and a server for it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lathe.artefact.family import FamilyPlan, read_family, write_family
from lathe.serving.backend import Observer, ServingBackend
from lathe.serving.decoding.tokenizer import Tokenizer
from lathe.serving.launch.engines import onnx
from lathe.serving.launch.family import family_service
from lathe.serving.options import ServeOptions
from lathe.serving.served_model import ServedModel, open_served_model
from lathe.serving.switching.chooser import Chooser
from support.tiny_server import GatedRunner, Served, save_artefact

WIDE, SMALL = "1.2x", "2x"
WIDTHS = {WIDE: 96, SMALL: 32}


def save_family(directory: Path, **options: Any) -> Path:
    """Writes a family of two subnets; `options` as those of `save_artefact`."""
    family = directory / "family"
    plans = []
    for name, width in WIDTHS.items():
        made = save_artefact(directory / name, intermediate_size=width, **options)
        shutil.copytree(made, family / "plans" / name)
        plans.append(FamilyPlan(name, f"plans/{name}", measured_ms=width / 4, loss_increase=1 / width))
    write_family(family, plans)
    return family


class RunningFamily(Served):
    """A server of a family, whose runners can be held up; `options` of `lathe serve`."""

    def __init__(
        self, path: Path, chooser: Chooser, server_options: Mapping[str, Any], **options: Any
    ) -> None:
        self.chooser = chooser
        self.by_subnet: dict[str, GatedRunner] = {}
        family = read_family(path)
        artefacts = {plan.name: open_served_model(family.directory(plan)) for plan in family.plans}
        given = ServeOptions(out=path, threads=1, **options)
        service = family_service("onnx", self._open, family, artefacts, chooser, given)
        super().__init__(service, list(self.by_subnet.values()), **server_options)

    def _open(
        self,
        artefacts: Mapping[str, ServedModel],
        tokenizer: Tokenizer,
        options: ServeOptions,
        observers: Mapping[str, Observer],
    ) -> Mapping[str, ServingBackend]:
        def held(graph: Path, **settings: Any) -> GatedRunner:
            return self.by_subnet.setdefault(graph.parent.parent.name, GatedRunner(graph, **settings))

        with patch("lathe.artefact.onnx.runner.OnnxRunner", held):
            return onnx.open_subnets(artefacts, tokenizer, options, observers)
