"""The values of a written GGUF file under our names, in our order: what the file's types made of a model."""

from __future__ import annotations

from pathlib import Path

import torch

from lathe.artefact.gguf.file import open_gguf
from lathe.compressor.export.base import Export
from lathe.compressor.export.gguf.hosts import host_of
from lathe.compressor.export.gguf.subnet import Subnet
from lathe.compressor.export.gguf.tensors import Part, file_tensors
from lathe.compressor.export.layout import pruned_tensors
from lathe.compressor.model.gguf.quantization import read_values


class StoredValues:
    """Gives a tensor of the job that a file was written from, dequantized, float32, by its checkpoint name.

    Attributes:
        names: All of them, in the model's order.
        types: The types in the file, by their names in the package `gguf`.
    """

    def __init__(self, path: Path, job: Export) -> None:
        import gguf

        source = job.source
        model = Subnet(source.config, source.shape, job.plan)
        self._dims = dict(pruned_tensors(source.shape, job.plan))
        self._places: dict[str, tuple[str, int, Part]] = {}
        for tensor in file_tensors(host_of(model, source.family.model_type), model):
            row = 0
            for part in tensor.parts:
                self._places[part.source] = tensor.name, row, part
                row += part.dims[0]
        self._stored = open_gguf(path).tensors
        self.names = [*self._dims]
        self.types = {gguf.GGMLQuantizationType(tensor.kind).name for tensor in self._stored.values()}

    def __call__(self, name: str) -> torch.Tensor:
        stored, row, part = self._places[name]
        value = read_values(self._stored[stored]).float()[row : row + part.dims[0]]
        if part.order is not None:
            value = torch.empty_like(value).index_copy_(0, part.order, value)
        return value[tuple(slice(size) for size in self._dims[name])] - part.offset
