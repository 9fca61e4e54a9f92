"""The locations of our tensors in a family's checkpoints: renamed, joined, or split."""

from __future__ import annotations

import re
from itertools import accumulate
from typing import NamedTuple

from lathe.artefact.plan import ModelShape
from lathe.compressor.model.families.base import Family
from lathe.compressor.model.families.experts import BLOCK, PACKED, Stack
from lathe.compressor.model.names import DOWN_PROJ, POSITIONS, layer_prefix
from lathe.compressor.model.tensor_shapes import tensors


class TensorLocation(NamedTuple):
    """The location of one of our tensors in a checkpoint.

    It is `rows` of every `period` rows of the tensor `name`, whose shape is `dims`; without a period, of all
    rows. Or it is all of `name`, joined along `axis` with `others` of its shape. Or it is what `stack` takes
    of `name`, which may be `packed`.
    """

    name: str
    dims: tuple[int, ...]
    rows: slice = slice(None)
    period: int = 0
    others: tuple[str, ...] = ()
    axis: int = 0
    stack: Stack | None = None
    packed: bool = False

    @property
    def plain(self) -> bool:
        """True if the location is a whole tensor, unchanged."""
        return self.rows == slice(None) and not (self.period or self.others or self.stack)

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.others)

    @property
    def stored(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the checkpoint's tensors, by name."""
        if not self.packed:
            return dict.fromkeys(self.names, self.dims)
        experts, inputs, outputs = self.dims
        blocks = (experts, outputs, inputs // BLOCK)
        return {self.name + PACKED[0]: (*blocks, BLOCK // 2), self.name + PACKED[1]: blocks}


def locate_tensors(family: Family, shape: ModelShape, packed: bool = False) -> dict[str, TensorLocation]:
    """Returns the location of each of our tensors in a checkpoint of a family.

    `packed` says whether stacked matrices of experts are packed.
    """
    found = {name: TensorLocation(stored_name(family, name), dims) for name, dims in tensors(shape)}
    positions = f"{POSITIONS}.weight"
    if positions in found:
        rows, *columns = found[positions].dims
        every = slice(family.position_offset, family.position_offset + rows)
        found[positions] = TensorLocation(
            found[positions].name, (family.position_offset + rows, *columns), every
        )
    layers = [layer_prefix(i) for i in range(shape.num_layers)]
    for modules, period in ((family.fused, 0), (family.interleaved, shape.head_dim)):
        for whole, parts in modules.items():
            for layer in layers:
                module = stored_name(family, f"{layer}{whole}.").removesuffix(".")
                _share(found, module, [layer + part for part in parts], period)
    for part, stored in family.split_experts.items():
        for layer in layers:
            names = [f"{layer}{stored}.weight".format(e=expert) for expert in range(shape.experts)]
            name, axis = f"{layer}{part}.weight", int(part == DOWN_PROJ)
            found[name] = _joined([stored_name(family, stored) for stored in names], found[name].dims, axis)
    for ours, stack in family.stacked.items():
        for layer in layers:
            name = stored_name(family, layer + stack.name)
            dims = stack.dims(found[layer + ours].dims, shape.experts)
            found[layer + ours] = TensorLocation(name, dims, stack=stack, packed=packed and stack.matrix)
    return found


def _joined(names: list[str], dims: tuple[int, ...], axis: int) -> TensorLocation:
    """Our tensor of shape `dims`, of which a checkpoint has equal parts."""
    own = list(dims)
    own[axis] //= len(names)
    return TensorLocation(names[0], tuple(own), others=tuple(names[1:]), axis=axis)


def _share(found: dict[str, TensorLocation], module: str, parts: list[str], size: int) -> None:
    """Locates our modules `parts` in the checkpoint's `module`.

    They are stacked, or interleaved with `size` rows of each.
    """
    for kind in ("weight", "bias"):
        names = [f"{part}.{kind}" for part in parts if f"{part}.{kind}" in found]
        counts = [found[name].dims[0] for name in names]
        ends = list(accumulate([size] * len(names) if size else counts))
        for name, end, count in zip(names, ends, counts, strict=True):
            dims = (sum(counts), *found[name].dims[1:])
            rows = slice(end - (size or count), end)
            found[name] = TensorLocation(f"{module}.{kind}", dims, rows, size and ends[-1])


def stored_name(family: Family, name: str) -> str:
    """A tensor's name in a checkpoint of a family."""
    if not family.checkpoint_names:
        return name
    ours = "|".join(map(re.escape, sorted(family.checkpoint_names, key=len, reverse=True)))
    return re.sub(rf"\b({ours})(?=\.)", lambda found: family.checkpoint_names[found[1]], name)
