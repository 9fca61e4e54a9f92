"""`compress --front` and `--plan`: every latency out of one table, and any of its plans made."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lathe.artefact.plan import LayerShape, Plan
from support import steady_clock
from support.compress_command import Tiny

pytestmark = pytest.mark.usefixtures("steady", "own_cache")


def test_a_front_has_plans_from_the_floor_to_dense_that_can_be_made(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "front"
    done = tiny.compress(out, "--front", "--json")
    assert done.exit_code == 0, done.output
    front = json.loads(done.stdout)
    assert front == json.loads((out / "front.json").read_text())
    assert not (tmp_path / "front.run").exists()
    points = front["points"]
    assert len(points) > 8
    milliseconds = [point["predicted_ms"] for point in points]
    assert milliseconds == sorted(milliseconds)
    sensitivities = [point["damage"] for point in points]
    assert sensitivities == sorted(sensitivities, reverse=True)
    assert sensitivities[-1] == pytest.approx(0, abs=1e-6)
    for point in points:
        plan = Plan.load(out / point["plan"])
        assert point["predicted_ms"] == pytest.approx(steady_clock.milliseconds(plan))
    ElementTree.parse(out / "front.svg")

    middle = points[len(points) // 2]
    made = tiny.compress(tmp_path / "out", "--plan", str(out / middle["plan"]), "--json")
    assert made.exit_code == 0, made.output
    report = json.loads(made.stdout)
    assert Plan(tuple(LayerShape(**row) for row in report["layers"])) == Plan.load(out / middle["plan"])
    assert report["latency"]["measured_ms"] == pytest.approx(middle["predicted_ms"])
    assert report["kl"]["search"] > 0


def test_a_front_keeps_the_other_targets(tiny: Tiny, tmp_path: Path) -> None:
    done = tiny.compress(tmp_path / "front", "--front", "--keep", "60%", "--json")
    assert done.exit_code == 0, done.output
    points = json.loads(done.stdout)["points"]
    assert all(point["decoder_parameters_kept"] <= 0.6 for point in points)
    shown = tiny.compress(tmp_path / "again", "--front")
    assert "plans/01.json" in shown.stdout
    refused = tiny.compress(tmp_path / "front", "--front")
    assert refused.exit_code == 1
    assert "exists" in refused.stderr


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([(4, 2, 96)], "has 1 layers; the model has 2"),
        ([(4, 2, 96), (4, 2, 95)], "layer 1 has 95 FFN channels. Choose of"),
        ([(7, 7, 96), (4, 2, 96)], "layer 0 has 7 query heads over 7 KV heads. Choose of"),
        ([(0, 0, 96), (0, 0, 96)], "has no attention block"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(
    tiny: Tiny, tmp_path: Path, layers: list[tuple[int, int, int]], message: str
) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(Plan(tuple(LayerShape(*layer) for layer in layers)).to_json()))
    done = tiny.compress(tmp_path / "out", "--plan", str(file))
    assert done.exit_code == 1
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_plan_front_and_latency_targets_exclude_each_other(tiny: Tiny, tmp_path: Path) -> None:
    for options in (("--plan", "p.json", "--keep", "50%"), ("--front", "--target-speedup", "2x")):
        done = tiny.compress(tmp_path / "out", *options)
        assert done.exit_code == 1
        assert done.stderr.startswith("error: --")
