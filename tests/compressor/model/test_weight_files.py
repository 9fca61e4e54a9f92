"""Which files of a folder are read: those that transformers reads, never others without a word."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lathe.artefact.errors import UserError
from lathe.compressor.agreement.check import check_agreement
from lathe.compressor.model.checkpoint import Checkpoint, open_checkpoint
from lathe.compressor.model.reference import load_dense
from support.tiny_llama import checkpoint, dense_model

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
NORM = "model.norm.weight"


def sharded(directory: Path) -> Path:
    model = dense_model(num_hidden_layers=2)
    with torch.no_grad():
        model.model.norm.weight.mul_(3)
    model.save_pretrained(directory, max_shard_size="60KB")
    assert (directory / INDEX).exists()
    return directory


def is_transformers(source: Checkpoint) -> None:
    """Every tensor is the one that transformers loads."""
    theirs = load_dense(source.path).state_dict()
    assert all(torch.equal(source.tensor(name), theirs[name]) for name in source.names())
    check_agreement(source, whole=True)


def config(path: Path, **changes: Any) -> None:
    document = json.loads((path / "config.json").read_text()) | changes
    (path / "config.json").write_text(json.dumps(document))


def test_c2_a_single_file_goes_before_shards_with_a_warning(tmp_path: Path) -> None:
    other = checkpoint(tmp_path / "other", num_hidden_layers=2)
    shutil.copy(other.path / SINGLE, sharded(tmp_path / "both") / SINGLE)
    source = open_checkpoint(str(tmp_path / "both"))
    is_transformers(source)
    assert torch.equal(source.tensor(NORM), other.tensor(NORM))
    assert len(source.notes) == 1
    assert SINGLE in source.notes[0]
    assert INDEX in source.notes[0]
    assert not other.notes


@pytest.mark.parametrize("name", ["consolidated.safetensors", "pytorch_model.bin", "model.fp16.safetensors"])
def test_c2_files_that_transformers_does_not_read_are_not_read(tmp_path: Path, name: str) -> None:
    path = sharded(tmp_path)
    (path / name).write_bytes(b"not a checkpoint")
    is_transformers(open_checkpoint(str(path)))


@pytest.mark.parametrize("name", ["own.safetensors", "own.safetensors.index.json"])
def test_c2_the_file_that_config_names_goes_before_all(tmp_path: Path, name: str) -> None:
    path = sharded(tmp_path)
    if name.endswith("json"):
        shutil.copy(path / INDEX, path / name)
        shutil.copy(checkpoint(tmp_path / "other", num_hidden_layers=2).path / SINGLE, path / SINGLE)
    else:
        shutil.copy(checkpoint(tmp_path / "other", num_hidden_layers=2).path / SINGLE, path / name)
    config(path, transformers_weights=name)
    source = open_checkpoint(str(path))
    is_transformers(source)
    assert "transformers_weights" not in source.config


def test_c2_shards_may_lie_in_a_folder_and_hold_more_than_the_index_says(tmp_path: Path) -> None:
    path = sharded(tmp_path)
    document = json.loads((path / INDEX).read_text())
    (path / "parts").mkdir()
    for file in path.glob("model-*.safetensors"):
        file.rename(path / "parts" / file.name)
    document["weight_map"] = {
        name: f"parts/{file}" for name, file in document["weight_map"].items() if name != NORM
    }
    (path / INDEX).write_text(json.dumps(document))
    is_transformers(open_checkpoint(str(path)))


def test_c2_of_a_tensor_in_two_shards_the_one_that_transformers_takes_counts(tmp_path: Path) -> None:
    path = sharded(tmp_path)
    files = sorted(path.glob("model-*.safetensors"))
    for file, factor in zip((files[0], files[-1]), (7.0, 9.0), strict=True):
        tensors = load_file(file)
        tensors[NORM] = torch.full((64,), factor)
        save_file(tensors, file, {"format": "pt"})
    source = open_checkpoint(str(path))
    is_transformers(source)
    assert source.tensor(NORM)[0] == 9


def weight_map(path: Path, **files: str) -> None:
    document = json.loads((path / INDEX).read_text())
    document["weight_map"] |= files
    (path / INDEX).write_text(json.dumps(document))


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "index without metadata": (
        lambda p: (p / INDEX).write_text(json.dumps({"weight_map": {}})),
        "has no `metadata`",
    ),
    "index that leads out": (lambda p: weight_map(p, a="../x.safetensors"), r"`\.\./x.safetensors`.*not in"),
    "index with an absolute path": (lambda p: weight_map(p, a="/x.safetensors"), "is not in the folder"),
    "index of a missing shard": (lambda p: weight_map(p, a="no.safetensors"), "no.safetensors"),
    "named file that leads out": (lambda p: config(p, transformers_weights="../o.safetensors"), "not in the"),
    "named file that is missing": (lambda p: config(p, transformers_weights="o.safetensors"), "o.safe"),
    "a distributed checkpoint": (
        lambda p: (p / "shard-00000-model-00001-of-00001.safetensors").touch(),
        "distributed checkpoint",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_c2_layouts_that_cannot_be_meant_are_refused(tmp_path: Path, kind: str) -> None:
    damage, words = BAD[kind]
    damage(sharded(tmp_path))
    with pytest.raises(UserError, match=words):
        open_checkpoint(str(tmp_path))
