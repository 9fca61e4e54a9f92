"""compress on another device than the processor: on one that is emulated (`elsewhere.py`), and on a GPU where
there is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file

from lathe.artefact.errors import UserError
from lathe.compressor.compute import device
from lathe.compressor.compute.device import CPU, out_of_memory_as_user_error, parse_device
from lathe.compressor.pipeline import memory_estimate as memory
from support.compress_command import Tiny, lathe
from support.tiny_models import tiny

TESTS = Path(__file__).parents[2]
OPTIONS = ("--keep", "60%", "--export", "checkpoint", "--calibration-tokens", "2048")
SLOW = pytest.mark.slow


def elsewhere(commands: Sequence[list[str]], free: int = 2**33) -> str:
    """What the commands print where there is such a device."""
    words = [word for number, command in enumerate(commands) for word in (["--"] * bool(number) + command)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
        "ELSEWHERE_FREE": str(free),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, str(TESTS / "support" / "elsewhere.py"), *words],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def command(model: Tiny, out: Path, *more: str) -> list[str]:
    return [
        "compress",
        str(model.model),
        "-o",
        str(out),
        "--calibration",
        str(model.text),
        *OPTIONS,
        *more,
        "--json",
    ]


def close(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor], bound: float = 1e-3) -> None:
    """The same widths, and values but for rounding."""
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=bound, atol=bound, msg=name)
    assert first.keys() == second.keys()


@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("llama", "quick"),
        *(
            pytest.param(family, method, marks=SLOW)
            for family, method in (
                ("llama", "lathe"),
                ("llama", "paper"),
                ("gemma2", "lathe"),
                ("opt", "lathe"),
                ("gpt_neox", "lathe"),
                ("olmo2", "lathe"),
                ("mixtral", "lathe"),
                ("gpt_oss", "lathe"),
            )
        ),
    ],
)
def test_a_device_makes_what_the_processor_makes(tmp_path: Path, family: str, method: str) -> None:
    model, how = tiny(tmp_path, family, "untied", "one file"), ["--method", method]
    if method == "paper":
        how += ["--evaluations", "20"]
    here, there, on_disk = (tmp_path / name for name in ("here", "there", "on-disk"))
    said = elsewhere([command(model, here, *how), command(model, there, *how, "--device", "elsewhere")])
    for name in ("cpu", "elsewhere"):
        assert f"solved: {{'{name}'" in said, "each solves in its own memory only"
    elsewhere([command(model, on_disk, *how, "--device", "elsewhere")], free=600 * 2**20)
    close(load_file(here / "model.safetensors"), load_file(there / "model.safetensors"))
    assert (there / "model.safetensors").read_bytes() == (on_disk / "model.safetensors").read_bytes()
    reports = [json.loads((out / "report.json").read_text()) for out in (here, there, on_disk)]
    assert [report["device"]["name"] for report in reports] == ["cpu", "elsewhere", "elsewhere"]
    assert [report["memory"]["on_disk"] for report in reports] == [False, False, True]
    assert reports[0]["device"]["stage_peak_memory_bytes"] is None
    assert reports[1]["device"]["stage_peak_memory_bytes"].keys() == reports[1]["seconds"].keys()


@SLOW
def test_text_that_a_model_writes_on_a_device_is_that_of_the_processor(tmp_path: Path) -> None:
    model = tiny(tmp_path, "llama", "untied", "one file")
    runs = [
        [*command(model, tmp_path / name, "--method", "quick", "--device", name), "--calibration", "self"]
        for name in ("cpu", "elsewhere")
    ]
    elsewhere(runs)
    close(*(load_file(tmp_path / name / "model.safetensors") for name in ("cpu", "elsewhere")))


@SLOW
def test_a_model_scores_the_same_on_a_device(tmp_path: Path) -> None:
    """One with learned positions: beside such a device transformers leaves rotary ones as memory was."""
    model = tiny(tmp_path, "opt", "untied", "one file")
    path = str(model.model)
    scored = ["lathe", "evaluate", path, "--text", str(model.text), "--against", path, "--json"]
    said = elsewhere([scored, [*scored, "--device", "elsewhere"]])
    first, second = (json.loads(line) for line in said.splitlines() if line.startswith("["))
    assert first[0]["loss"] == pytest.approx(second[0]["loss"], rel=1e-5)
    assert second[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert second[0]["agreement"] == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_makes_what_the_processor_makes_nearly(tmp_path: Path) -> None:
    model = tiny(tmp_path, "llama", "untied", "one file")
    for name in ("cpu", "cuda"):
        done = lathe(*command(model, tmp_path / name, "--device", name))
        assert done.exit_code == 0, done.output
    close(*(load_file(tmp_path / name / "model.safetensors") for name in ("cpu", "cuda")), bound=1e-2)


def refused(tmp_path: Path, *more: str) -> Result:
    """Before the model is looked at: there is none."""
    done = lathe("compress", str(tmp_path / "none"), "-o", str(tmp_path / "out"), "--keep", "60%", *more)
    assert done.exit_code == 1
    return done


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("gpu", "--device gpu is not a device"),
        ("meta", "PyTorch .* sees no such GPU here"),
        ("cuda:99", "sees no such GPU here|counted from 0"),
    ],
)
def test_what_is_not_there_is_refused_by_name(asked: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_device(asked)


def test_the_command_refuses_it_before_the_model_is_read(tmp_path: Path) -> None:
    assert "is not a device" in refused(tmp_path, "--device", "gpu").output


def test_the_processor_has_no_number() -> None:
    assert parse_device("cpu:0") == parse_device("cpu") == CPU


def test_workers_and_a_device_exclude_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "parse_device", lambda _text: torch.device("meta"))
    assert "Leave it or --ray out" in refused(tmp_path, "--device", "cuda", "--ray", "local:2").output


def test_a_device_too_small_for_a_stage_is_refused_with_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "parse_device", lambda _text: torch.device("meta"))
    monkeypatch.setattr(memory, "free_bytes", lambda _where: 2**20)
    model = tiny(tmp_path, "llama", "untied", "one file")
    done = lathe(*command(model, tmp_path / "out", "--device", "cuda"))
    assert done.exit_code == 1
    assert "where 1 MiB are free" in done.output
    assert "Leave --device out" in done.output
    assert not (tmp_path / "out.run").exists()


def test_a_full_device_ends_in_a_sentence() -> None:
    with (
        pytest.raises(UserError, match="the memory of cuda:0 was full"),
        out_of_memory_as_user_error(torch.device("cuda:0")),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_peaks_of_a_stage_that_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = iter([3, 7, 5])
    module = SimpleNamespace(max_memory_allocated=lambda _where: next(peaks))
    monkeypatch.setattr(torch, "get_device_module", lambda _where: module)
    watched = device.DeviceMemory(torch.device("meta"))
    assert [watched.end("reform") for _ in range(3)] == [3, 7, 5]
    assert watched.peaks == {"reform": 7}
