"""Hosts: what an architecture of llama.cpp computes, and what it calls the tensors of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lathe.artefact.errors import UserError
from lathe.artefact.registry import Registry
from lathe.compressor.export.gguf.features import features_of, phrase
from lathe.compressor.export.gguf.subnet import Subnet

_REMEDY = "Export it as a checkpoint, for vLLM or as an ONNX graph."


@dataclass(frozen=True)
class Host:
    """An architecture of llama.cpp as data.

    Attributes:
        architecture: Its name in GGUF.
        modules: Our modules of a layer by their names in GGUF.
        takes: The features (`features_of`) that it computes.
        needs: Those that it computes whether a model has them or not.
        uneven: Whether every layer has widths of its own.
        attention_free: Whether layers but the first may be without attention.
        interleaved: Whether the rows of queries and keys are in llama.cpp's order of rotary positions.
        fused: Whether queries, keys and values are one matrix, without biases.
        windows: Whether layers may have sliding windows.
        norm_offset: What the file adds to the weights of norms.
        odds: Names what it fixes that a model with these features has otherwise, one phrase each.
        settings: Metadata that only this architecture has, without its name.
    """

    architecture: str
    modules: Mapping[str, str]
    takes: frozenset[str]
    needs: frozenset[str] = frozenset()
    uneven: bool = False
    attention_free: bool = False
    interleaved: bool = False
    fused: bool = False
    windows: bool = False
    norm_offset: float = 0.0
    odds: Callable[[Subnet], Iterable[str]] = lambda _model: ()
    settings: Callable[[Subnet], dict[str, Any]] = field(default=lambda _model: {})

    def lacks(self, model: Subnet) -> list[str]:
        """Returns what a model computes otherwise than this architecture, as what this one has."""
        has = features_of(model)
        beyond = [f"no {phrase(name)}" for name in sorted(has - self.takes - self.needs)]
        always = [f"always {phrase(name)}" for name in sorted(self.needs - has)]
        return [*beyond, *always] or [f"no {odd}" for odd in self.odds(model)]


hosts: Registry[Host] = Registry("GGUF host", "lathe.compressor.export.gguf.hosts")
"""Every host by the name of its architecture."""


def host_of(model: Subnet, name: str) -> Host:
    """Returns the architecture that a model is written as: where layers are even, its own if there is one.

    Of several it is the one that computes the least beside.

    Args:
        model: The model.
        name: What its family is called, for the message.

    Raises:
        UserError: There is none; says what the nearest one lacks.
    """
    found = map(hosts.get, hosts.known())
    candidates = [host for host in found if host.uneven or model.even]
    lacking = {host.architecture: host.lacks(model) for host in candidates}
    for host in sorted(candidates, key=lambda host: (host.uneven, -len(host.needs))):
        if not lacking[host.architecture]:
            return host
    fewest = min(map(len, lacking.values()))
    nearest = {tuple(beyond): host for host, beyond in reversed(lacking.items()) if len(beyond) == fewest}
    shown = (f"`{architecture}` has {', '.join(beyond)}" for beyond, architecture in nearest.items())
    kind = "models" if model.even else "uneven models"
    raise UserError(
        f"llama.cpp has no architecture for {kind} of type `{name}`; of the nearest, {'; '.join(shown)}",
        _REMEDY,
    )
