"""Models of random weights for llama.cpp: the file is that of the export, but for values and names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import quantize

from lathe.artefact.errors import UserError
from lathe.artefact.gguf.file import GgufModel, open_gguf
from lathe.artefact.plan import Plan
from lathe.compressor.export import exporters
from lathe.compressor.export.gguf.random import random_gguf
from lathe.compressor.export.gguf.tensors import FileTensor
from lathe.compressor.export.gguf.types import Encoded
from lathe.compressor.latency.backend import backends, versions_here
from lathe.compressor.model.checkpoint import Checkpoint
from support.tiny_llama import LAYERS, PLANS, checkpoint, pruned


@pytest.fixture
def source(tmp_path: Path) -> Checkpoint:
    found = checkpoint(tmp_path / "source", tie_word_embeddings=True)
    (found.path / "tokenizer.json").unlink()
    return found


def widths(model: GgufModel) -> dict[str, Any]:
    return {key: value for key, value in model.metadata.items() if key.startswith(model.architecture)}


BITS = (
    PLANS["groups"]
    .replace(0, replace(PLANS["groups"][0], ffn_bits=4))
    .replace(2, replace(PLANS["groups"][2], attention_bits=8))
)


@pytest.mark.parametrize(
    ("backend", "plan"),
    [
        ("llamacpp", PLANS["dense"]),
        ("llamacpp", PLANS["mixed"]),
        ("llamacpp", PLANS["no ffn first"]),
        ("llamacpp-f16", PLANS["groups"]),
        ("llamacpp-q8_0", PLANS["groups"]),
        ("llamacpp-q4_1", PLANS["mixed"]),
        ("llamacpp-int4", PLANS["groups"]),
        ("llamacpp-mixed", BITS),
    ],
)
def test_what_is_timed_has_the_shape_of_what_is_exported(
    source: Checkpoint, tmp_path: Path, backend: str, plan: Plan
) -> None:
    backends.get(backend).build(tmp_path, source, plan, LAYERS)
    built = open_gguf(tmp_path / "model.gguf")
    (tmp_path / "out").mkdir()
    exporters.get(backends.get(backend).export).write(tmp_path / "out", pruned(source, plan))
    exported = open_gguf(tmp_path / "out" / "model.gguf")
    assert built.architecture == exported.architecture
    assert widths(built) == widths(exported)
    assert {n: (t.shape, t.kind) for n, t in built.tensors.items()} == {
        n: (t.shape, t.kind) for n, t in exported.tensors.items()
    }


class Q8:
    """All matrices in Q8_0; counts what it quantizes."""

    def __init__(self) -> None:
        self.encoded = 0
        self.metadata: dict[str, Any] = {}

    def of(self, tensor: FileTensor) -> str:
        return "Q8_0" if len(tensor.dims) > 1 else "F32"

    def encode(self, tensor: FileTensor, value: Any, kind: str) -> Encoded:
        from gguf import GGMLQuantizationType as Kind

        self.encoded += 1
        return Encoded(quantize(value.numpy(), Kind[kind]))


def test_one_matrix_of_a_type_is_quantized_and_repeated(source: Checkpoint, tmp_path: Path) -> None:
    types = Q8()
    config, family = source.config, source.family
    random_gguf(tmp_path / "m.gguf", config, family, PLANS["groups"], types)  # type: ignore[arg-type]
    matrices = [t for t in GGUFReader(tmp_path / "m.gguf").tensors if t.tensor_type.name == "Q8_0"]
    vectors = sum(len(t.shape) == 1 for t in open_gguf(tmp_path / "m.gguf").tensors.values())
    assert types.encoded == 1 + vectors
    blocks = [tensor.data.reshape(-1, 34) for tensor in matrices]
    for tensor in blocks:
        scales = np.ascontiguousarray(tensor[:, :2]).view(np.float16)
        assert np.isfinite(scales).all()
        assert scales.any()


def test_without_llama_cpp_it_cannot_be_timed(
    source: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    from lathe.artefact.llamacpp.library import llama_cpp
    from lathe.compressor.latency.workload import Workload

    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    llama_cpp.cache_clear()
    assert versions_here(backends.get("llamacpp")) == {}
    with pytest.raises(UserError, match=r"llama.cpp is not installed. Install it: pip install"):
        backends.get("llamacpp").prepare(tmp_path, Workload(), 1)
