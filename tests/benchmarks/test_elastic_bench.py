"""The benchmark of families on a tiny one; times and memory are not looked at."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.elastic.__main__ import main
from benchmarks.elastic.servers import memory_of_servers
from lathe.artefact.atomic_files import write_json
from lathe.artefact.family import FamilyPlan, read_family, write_family
from lathe.artefact.linked_files import bytes_once
from lathe.artefact.manifest import write_manifest
from lathe.compressor.export.onnx import export_onnx
from lathe.compressor.export.onnx.sharing import share_graphs
from support.tiny_family import save_family
from support.tiny_llama import PLANS, checkpoint, pruned

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads memory of Linux")


def test_a_family_is_measured_beside_runs_of_their_own(tmp_path: Path) -> None:
    source, out = checkpoint(tmp_path / "dense"), tmp_path / "out.json"
    places = [tmp_path / "family" / "plans" / name for name in ("dense", "ffn")]
    for place in places:
        export_onnx(place, replace(pruned(source, PLANS[place.name]), nested=True))
    apart = bytes_once(places)
    share_graphs([place / "onnx" for place in places])
    for place in places:
        write_manifest(place)
    plans = [FamilyPlan(p.name, f"plans/{p.name}", loss_increase=0.1 * i) for i, p in enumerate(places, 1)]
    write_family(tmp_path / "family", plans, bytes={"together": bytes_once(places), "apart": apart})
    (tmp_path / "ffn").mkdir()
    write_json(tmp_path / "ffn" / "report.json", {"loss": {"dense": 3.0, "subnet": 3.16}})
    family, own = str(tmp_path / "family"), str(tmp_path / "ffn")
    assert main([family, "--own", own, "--context", "12", "--steps", "3", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert 0.3 < found["disk_bytes"]["graphs"]["ratio"] < 0.9
    assert 0.3 < found["disk_bytes"]["artefacts"]["ratio"] < 0.99
    assert found["loss_increase"]["ffn"]["ratio"] == pytest.approx(0.2 / 0.16)
    assert found["loss_increase"]["dense"]["own"] is None
    assert len(found["memory"]["together"]["step_ms"]) == 2


def test_both_servers_are_measured(tmp_path: Path) -> None:
    found = memory_of_servers(read_family(save_family(tmp_path)))
    assert found["ratio"] == found["family_pss_bytes"] / found["widest_pss_bytes"]
    assert found["widest_pss_bytes"] > 2**24


def test_what_is_no_family_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--out", str(tmp_path / "out.json")]) == 1
    assert str(tmp_path) in capsys.readouterr().err
