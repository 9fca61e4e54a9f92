"""Files that llama.cpp quantizes, as rivals of the comparison of widths and bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("llama_cpp")

from benchmarks.bits.gguf_files import gguf_facts, quantize_gguf, weight_bytes
from benchmarks.bits.scoring import score
from lathe.artefact.errors import UserError
from lathe.compressor.compute.progress import Progress


def test_a_smaller_type_has_fewer_bytes_and_loses_more(files: dict[str, Path], tmp_path: Path) -> None:
    windows, found = torch.arange(256).view(2, 128), {}
    for kind in ("Q8_0", "Q4_0"):
        quantize_gguf(files["F32"], tmp_path / kind / "model.gguf", kind)
        found[kind] = score(tmp_path / kind, windows, Progress(quiet=True))
        assert found[kind]["weight_bytes"] == weight_bytes(tmp_path / kind / "model.gguf")
    assert found["Q4_0"]["weight_bytes"] < found["Q8_0"]["weight_bytes"]
    assert gguf_facts(tmp_path / "Q8_0" / "model.gguf")["mean_bits"] == pytest.approx(8.5, abs=0.1)
    assert gguf_facts(tmp_path / "Q4_0" / "model.gguf")["mean_bits"] == pytest.approx(4.5, abs=0.1)
    dense = tmp_path / "F32"
    dense.mkdir()
    (dense / "model.gguf").symlink_to(files["F32"])
    exact = score(dense, windows, Progress(quiet=True))["loss"]
    assert abs(found["Q8_0"]["loss"] - exact) < abs(found["Q4_0"]["loss"] - exact)


def test_a_file_that_is_not_there_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot quantize"):
        quantize_gguf(tmp_path / "none.gguf", tmp_path / "out" / "model.gguf", "Q4_0")
