"""The stage that rounds layers on text: what a graph holds, going on after a kill, and what it is worth."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.testing import assert_close

from lathe.compressor.compute.progress import Progress
from lathe.compressor.model.rounded_tensors import dequantized
from lathe.compressor.pipeline.calibrate import CalibrationResult, calibrate
from lathe.compressor.pipeline.export import export
from lathe.compressor.pipeline.latency_loop import Iteration, LatencyLoop
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.pipeline.preflight import run_preflight
from lathe.compressor.pipeline.reconstruct import reconstruct
from lathe.compressor.pipeline.round import RoundedLayers, round_layers
from lathe.compressor.pipeline.run_context import RunContext
from lathe.compressor.pipeline.run_directory import RunDirectory
from lathe.compressor.pipeline.search import Searcher
from support.compress_command import Tiny, content
from support.graph_matrices import matrices, stored_tensors

SAME = ("plan.json", "model.safetensors", "onnx/model.onnx", "onnx/model.onnx.data")

pytestmark = pytest.mark.usefixtures("steady")


class Run:
    """A run up to its reconstruction."""

    def __init__(self, tiny: Tiny, out: Path, quantize: str | None, method: str = "quick") -> None:
        options = CompressOptions(
            model=str(tiny.model),
            out=out,
            keep=0.6,
            context=1,
            export=("checkpoint", "onnx"),
            quantize=quantize,
            calibration=str(tiny.text),
            calibration_tokens=2048,
            method=method,
        )
        quiet = Progress(quiet=True)
        self.context = RunContext(options, run_preflight(options, quiet), RunDirectory(out), quiet)
        self.calibration: CalibrationResult = calibrate(self.context)
        self.iteration: Iteration = LatencyLoop(
            self.context, Searcher(self.context, self.calibration), ""
        ).find_plan()
        self.name = reconstruct(self.context, self.calibration, self.iteration)

    def round(self) -> str | None:
        return round_layers(self.context, self.calibration, self.iteration, self.name)

    def files(self, kind: str = "rounded") -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in self.context.run_dir.path.glob(f"{kind}-*")}


@pytest.fixture(scope="module")
def run(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    made = Run(tiny, tmp_path_factory.mktemp("run") / "out", "int4")
    yield made
    made.context.run_dir.close()


def test_a_graph_holds_the_matrices_that_were_rounded(run: Run) -> None:
    rounded = run.round()
    assert rounded
    artefact = export(run.context, run.iteration, run.name, rounded)
    stored = stored_tensors(artefact / "onnx" / "model.onnx")
    layers = RoundedLayers(run.context.run_dir.path, rounded)
    for index in range(len(run.iteration.plan)):
        made = dequantized(layers(index))
        found = matrices(stored, f"model.layers.{index}.", made, 4)
        assert set(found) == set(made) != set()
        for name, values in found.items():
            assert_close(values, made[name], rtol=0, atol=0)


def test_a_stage_that_was_killed_goes_on_with_the_layers_that_it_had(run: Run) -> None:
    run.round()
    before = run.files()
    first, *_, last = sorted(before)
    at = first.stat().st_mtime_ns
    last.unlink()
    run.round()
    assert run.files() == before
    assert first.stat().st_mtime_ns == at


def test_the_thorough_method_rounds_by_gradients_too(tiny: Tiny, tmp_path: Path) -> None:
    made = Run(tiny, tmp_path / "out", "int4", "lathe")
    made.round()
    assert "round: gradients" in made.context.progress.seconds
    before = made.files()
    sorted(before)[-1].unlink()
    made.round()
    assert made.files() == before
    assert made.files("gradients") == {}
    made.context.run_dir.close()


def test_without_quantization_nothing_is_rounded(tiny: Tiny, tmp_path: Path) -> None:
    made = Run(tiny, tmp_path / "out", None)
    assert made.round() is None
    assert made.files() == {}
    made.context.run_dir.close()


def test_a_killed_run_makes_the_same_artefact(tiny: Tiny, tmp_path: Path) -> None:
    out, options = tmp_path / "out", ("--keep", "60%", "--quantize", "int4", "--method", "quick")
    killed = tiny.killed(out, "replace:11", *options)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len([*(tmp_path / "out.run").glob("rounded-*.safetensors")]) == 1
    for target in (out, tmp_path / "whole"):
        done = tiny.compress(target, *options)
        assert done.exit_code == 0, done.output
    assert content(out, SAME) == content(tmp_path / "whole", SAME)
