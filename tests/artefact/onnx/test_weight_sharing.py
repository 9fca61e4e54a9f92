"""Bytes of weights that graphs share: places that overlap, in files that are links to one another."""

from __future__ import annotations

import os
from pathlib import Path

from onnx import ModelProto, StringStringEntryProto, TensorProto

from lathe.artefact.onnx.weight_sharing import WeightBytes, weight_sharing

DATA = "model.onnx.data"


def graph(directory: Path, *places: tuple[int, int]) -> Path:
    """Writes a graph whose tensors lie at these offsets, with these lengths."""
    directory.mkdir()
    model = ModelProto()
    for number, (offset, length) in enumerate(places):
        tensor = model.graph.initializer.add(name=f"t{number}", data_location=TensorProto.EXTERNAL)
        stated = {"location": DATA, "offset": str(offset), "length": str(length)}
        tensor.external_data.extend(StringStringEntryProto(key=k, value=v) for k, v in stated.items())
    model.graph.initializer.add(name="inside", raw_data=b"1234")
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    return directory / "model.onnx"


def test_overlapping_places_in_linked_files_are_shared(tmp_path: Path) -> None:
    wide = graph(tmp_path / "wide", (0, 100), (100, 50), (500, 8))
    small = graph(tmp_path / "small", (0, 60), (100, 50), (200, 30))
    (wide.parent / DATA).write_bytes(bytes(1000))
    os.link(wide.parent / DATA, small.parent / DATA)
    found, whole = weight_sharing({"wide": wide, "small": small})
    assert found == {"wide": WeightBytes(48, 110), "small": WeightBytes(30, 110)}
    assert whole == 48 + 110 + 30


def test_copies_are_not_shared(tmp_path: Path) -> None:
    wide, small = graph(tmp_path / "wide", (0, 100)), graph(tmp_path / "small", (0, 60))
    for one in (wide, small):
        (one.parent / DATA).write_bytes(bytes(1000))
    found, whole = weight_sharing({"wide": wide, "small": small})
    assert found == {"wide": WeightBytes(100, 0), "small": WeightBytes(60, 0)}
    assert whole == 160
