"""The input of every exporter, and the registries of exporters and of ways to serve."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lathe.artefact.errors import UserError
from lathe.artefact.plan import ModelShape, Plan
from lathe.artefact.registry import Registry
from lathe.artefact.width_rules import WidthRules
from lathe.compressor.model.cache_rounding import CacheScales
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.families import Family, families
from lathe.compressor.model.groups import BY_ERROR, GroupRule
from lathe.compressor.model.rounding import QuantizedMatrix


@dataclass(frozen=True)
class Export:
    """A subnet to write.

    Attributes:
        source: the dense model.
        tensor: gives a pruned tensor (the plan's shape), float32, by checkpoint name.
        tensor_parallel: the number of devices that are to share every layer.
        rounded: gives what rounding on calibration text made of a tensor, by checkpoint name: a matrix in
            codes, or other values; None where it left the tensor. It is for graphs of quantized weights.
        groups: gives every matrix its group that is quantized.
        cache_scales: gives the scales of a layer's int8 KV cache; None leaves the cache of graphs float32.
        nested: whether graphs are laid out so that those of a family's subnets can share rows.
    """

    source: Checkpoint
    plan: Plan
    tensor: Callable[[str], torch.Tensor]
    tensor_parallel: int = 1
    rounded: Callable[[str], torch.Tensor | QuantizedMatrix | None] = lambda _name: None
    groups: GroupRule = BY_ERROR
    cache_scales: Callable[[int], CacheScales] | None = None
    nested: bool = False

    @classmethod
    def whole(cls, source: Checkpoint, tensor_parallel: int = 1) -> Export:
        """The dense model as it is."""
        return cls(source, source.shape.dense_plan, source.tensor, tensor_parallel)

    def stored(self, name: str) -> torch.Tensor:
        """A pruned tensor in `source.dtype`: the values every export must agree on."""
        return self.tensor(name).to(self.source.dtype)


@dataclass(frozen=True)
class Destination:
    """A way to serve, that plans can be made for.

    Attributes:
        check: raises UserError where a model cannot be served so, from its config alone.
        multiple: what a projection reads on a device, its columns, comes in multiples of this.
        check_uneven: raises UserError where a model cannot be served with layers of uneven widths.
    """

    check: Callable[[Checkpoint], None] = lambda _source: None
    multiple: int = 1
    check_uneven: Callable[[Checkpoint], None] = lambda _source: None


@dataclass(frozen=True)
class Stored:
    """Bytes that a value takes where a model is served.

    There is a figure for layers' weights, for embedding and head, for learned positions and the last norm,
    and for the KV cache.
    """

    weight: float
    table: float
    other: float
    cache: float

    def fixed(self, shape: ModelShape) -> float:
        """Bytes of what is no layer's."""
        whole, tables = shape.parameters(()), shape.table_parameters
        return self.table * tables + self.other * (whole - tables)


def as_stored(source: Checkpoint) -> Stored:
    """All in the checkpoint's dtype."""
    size = source.dtype.itemsize
    return Stored(size, size, size, size)


@dataclass(frozen=True, kw_only=True)
class Exporter(Destination):
    """An export format.

    Attributes:
        write: puts its files into an artefact directory. Raises UserError where the disk refuses.
        types: our model types that it knows.
        unknown: families of these types that it does not know.
        variant_of: the exporter of the same families that it is a variant of; it is not listed beside that.
        stored: what its values take; of quantized ones with the most scales.
        rounded: what they take in so many bits, where plans say the bits of each block.
        folder: where in the artefact the model lies that an engine is given.
        quantizes: whether it quantizes what the checkpoint stores.
        with_bits: gives a plan the bits that the blocks of its graph have.
        graph: what runs the file that it writes, beside the checkpoint: onnx or gguf.
        takes_artefacts: whether `lathe export` writes finished artefacts, too.
        summary: what quantization did, from a directory that was written; empty where it did nothing.
        served_by: the command that serves an artefact `{out}`.
        shared_by: what that command adds for several `{devices}`.
        adds_to: whether an artefact holds all that it needs, but for what it adds.
        add: adds that to such a directory, of which the checkpoint says config and shape. Raises as `write`.
    """

    write: Callable[[Path, Export], None]
    types: Collection[str]
    unknown: Collection[str] = ()
    variant_of: str = ""
    stored: Callable[[Checkpoint], Stored] = as_stored
    rounded: Callable[[Checkpoint, int], Stored] | None = None
    folder: str = "."
    quantizes: bool = False
    with_bits: Callable[[Plan], Plan] = lambda plan: plan.unrounded
    graph: str = ""
    takes_artefacts: bool = False
    summary: Callable[[Path], dict[str, Any]] = lambda _directory: {}
    served_by: str = ""
    shared_by: str = ""
    adds_to: Callable[[Path], bool] = lambda _directory: False
    add: Callable[[Path, Checkpoint], None] = lambda _directory, _source: None

    def serving(self, out: Path, devices: int) -> str:
        """The command for an artefact that `devices` share."""
        command = self.served_by + (self.shared_by if devices > 1 else "")
        return command.format(out=out, devices=devices)

    def stored_in(self, source: Checkpoint, bits: int) -> Stored:
        """Returns what values take in so many bits; 0: not rounded."""
        return self.rounded(source, bits) if self.rounded and bits else self.stored(source)

    def rounds(self, plan: Plan) -> bool:
        """Returns whether a plan's weights are quantized in this format."""
        return self.quantizes and (plan.rounded or self.rounded is None)

    def knows(self, family: Family) -> bool:
        """Returns whether it can write models of a family."""
        return family.exported_type in self.types and family.model_type not in self.unknown


class _Exporters(Registry[Exporter]):
    """Every exporter is a destination, too."""

    def add(self, name: str, value: Exporter) -> Exporter:
        destinations.add(name, value)
        return super().add(name, value)

    def listed(self) -> list[str]:
        """Returns the names of those that are no variants, sorted."""
        return [name for name in self.known() if not self.get(name).variant_of]


Quantizer = Callable[[str, Path, int, Path | None, GroupRule], dict[str, Any]]
"""Writes a quantized model or artefact into a new directory, for a number of devices.

Behind their number comes a file with a plan, for formats in which that says the bits of each block, and what
gives matrices of an ONNX graph their groups. It returns the summary of the quantization for `report.json`.

Raises:
    UserError: the model cannot be read or quantized so, or the directory exists.
"""


@dataclass(frozen=True)
class CalibrationAsked:
    """Calibration text that is asked for.

    Attributes:
        text: Files or folders with commas, a data set, or `self`: the model writes it.
        tokens: How many.
        quiet: Whether no progress is told.
    """

    text: str = "self"
    tokens: int = 16_384
    quiet: bool = False


@dataclass(frozen=True)
class OnText:
    """A quantizer that reads calibration text, and takes no plan.

    Attributes:
        scheme: What `--quantize` calls it.
        write: Quantizes as `Quantizer` does, on what is asked for.
        asked: The text.
    """

    scheme: str
    write: Callable[[str, Path, CalibrationAsked], dict[str, Any]]
    asked: CalibrationAsked = CalibrationAsked()

    def __call__(
        self, model: str, output: Path, _devices: int, plan: Path | None, _groups: GroupRule
    ) -> dict[str, Any]:
        """Does what a `Quantizer` does."""
        refuse_plan(plan, self.scheme)
        return self.write(model, output, self.asked)


@dataclass(frozen=True)
class WithText:
    """A quantizer that rounds to nearest, or with compensation where calibration text is asked for.

    Attributes:
        write: Quantizes as `Quantizer` does, for a number of devices, with a plan, on what is asked for.
        asked: The text, if any.
    """

    write: Callable[[str, Path, int, Path | None, CalibrationAsked | None], dict[str, Any]]
    asked: CalibrationAsked | None = None

    def __call__(
        self, model: str, output: Path, devices: int, plan: Path | None, _groups: GroupRule
    ) -> dict[str, Any]:
        """Does what a `Quantizer` does."""
        return self.write(model, output, devices, plan, self.asked)


destinations: Registry[Destination] = Registry(
    "destination",
    "lathe.compressor.export",
    "lathe.exporters",
    lambda _name, value: isinstance(value, Exporter),
)
"""Every way to serve that plans can be made for, by the name that `--for` takes."""

exporters = _Exporters(
    "exporter",
    "lathe.compressor.export",
    "lathe.exporters",
    lambda _name, value: isinstance(value, Exporter),
)
"""Every exporter by the name that `--export` takes."""

quantizers: Registry[Quantizer] = Registry("quantized export", "lathe.compressor.export")
"""Every quantized format, by `FORMAT-SCHEME` of `lathe export --to FORMAT --quantize SCHEME`."""


def refuse_plan(plan: Path | None, scheme: str) -> None:
    """Refuses a plan for a quantized format in which all blocks have the same bits.

    Raises:
        UserError: there is one.
    """
    if plan is not None:
        raise UserError(
            f"--quantize {scheme} gives all blocks the same bits",
            "Leave --plan out, or give --quantize mixed.",
        )


def check_known(source: Checkpoint, name: str) -> None:
    """Checks that the exporter called `name` knows the family of a model.

    Raises:
        UserError: it does not; names those that it knows.
    """
    exporter = exporters.get(name)
    if not exporter.knows(source.family):
        known = [other for other in families.known() if exporter.knows(families.get(other))]
        raise UserError(
            f"models of type `{source.family.model_type}` cannot be exported to {name} yet",
            f"It takes: {', '.join(known)}.",
        )


def rules_of(chosen: Iterable[Destination], head_dim: int, devices: int) -> WidthRules:
    """Returns the width rules of plans that all destinations serve, `devices` sharing every layer."""
    return WidthRules.of(devices, math.lcm(*(destination.multiple for destination in chosen)), head_dim)
