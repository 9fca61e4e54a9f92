"""Whole commands on folders that can be read in more than one way: as transformers does, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lathe.compressor.evaluate.compare import load_model
from lathe.compressor.evaluate.onnx import OnnxModel
from lathe.compressor.latency.profile import Profile
from support.compress_command import Tiny, lathe, make_tiny
from support.tiny_models import tiny as tiny_of

QUICK = ("--keep", "70%", "--export", "checkpoint", "--method", "quick")
HEAD, TABLE, WEIGHTS = "lm_head.weight", "model.embed_tokens.weight", "model.safetensors"
AGREES = "computes what transformers does: embedding, 2 layers and logits"

pytestmark = pytest.mark.usefixtures("steady")


def config(path: Path, **changes: object) -> None:
    document = json.loads((path / "config.json").read_text()) | changes
    (path / "config.json").write_text(json.dumps(document))


def logits(model: str) -> torch.Tensor:
    loaded, tokens = load_model(model), torch.arange(24)
    if isinstance(loaded, OnnxModel):
        return torch.cat([part for _, part in loaded.chunks(tokens)])[None]
    with torch.inference_mode():
        found: torch.Tensor = loaded(input_ids=tokens[None], use_cache=False).logits
        return found


@pytest.fixture
def headed(tmp_path: Path) -> Tiny:
    """An untied model whose config says that it is tied."""
    model = make_tiny(tmp_path / "headed")
    config(model.model, tie_word_embeddings=True)
    return model


def test_c1_the_stored_head_of_a_tied_config_is_compressed(headed: Tiny, tmp_path: Path) -> None:
    done = headed.compress(tmp_path / "out", *QUICK)
    assert done.exit_code == 0, done.output
    assert f"the stored `{HEAD}` differs" in done.stderr
    assert AGREES in done.stderr
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    dense, subnet = (load_file(path / WEIGHTS) for path in (headed.model, tmp_path / "out"))
    assert torch.equal(subnet[HEAD], dense[HEAD])
    loaded = load_model(str(tmp_path / "out"))
    assert torch.equal(loaded.lm_head.weight, dense[HEAD])
    assert torch.equal(loaded.get_input_embeddings().weight, dense[TABLE])


@pytest.mark.parametrize("to", ["onnx", "checkpoint"])
def test_c1_exports_of_a_tied_config_compute_what_transformers_does(
    headed: Tiny, tmp_path: Path, to: str
) -> None:
    expected = logits(str(headed.model))
    done = lathe("export", str(headed.model), "--to", to, "-o", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    torch.testing.assert_close(logits(str(tmp_path / "out")), expected, rtol=1e-3, atol=1e-3)


def test_c1_a_profile_is_of_the_model_with_its_head(headed: Tiny, tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    done = lathe(
        "profile",
        str(headed.model),
        "--hardware",
        "h200",
        "--latency-metric",
        "ttft",
        "--context",
        "64",
        "-o",
        str(file),
    )
    assert done.exit_code == 0, done.output
    assert Profile.load(file).shape["tied_embeddings"] is False


def test_c2_the_single_file_is_compressed_and_evaluated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = make_tiny(tmp_path / "both")
    shards = load_file(other.model / WEIGHTS)
    shards[HEAD] = shards[HEAD].flip(0).contiguous()
    save_file(shards, other.model / "model-00001-of-00001.safetensors", {"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(shards, "model-00001-of-00001.safetensors")}
    (other.model / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    done = other.compress(tmp_path / "out", *QUICK)
    assert done.exit_code == 0, done.output
    assert "the single file is read and the shards are not" in done.stderr
    dense, subnet = (load_file(path / WEIGHTS) for path in (other.model, tmp_path / "out"))
    assert torch.equal(subnet[HEAD], dense[HEAD])
    assert not torch.equal(subnet[HEAD], shards[HEAD])
    assert torch.equal(load_model(str(other.model)).lm_head.weight, dense[HEAD])
    assert lathe("evaluate", str(other.model), "--text", str(other.text), "--windows", "2").exit_code == 0
    assert "the single file is read and the shards are not" in caplog.text


@pytest.mark.parametrize("command", ["compress", "plan", "export", "export --quantize"])
def test_another_reading_is_refused_and_leaves_nothing(tmp_path: Path, command: str) -> None:
    model = tiny_of(tmp_path, "mistral", "untied", "one file")
    config(model.model, sliding_window=8, use_sliding_window=False)
    left, out = {*tmp_path.rglob("*")}, tmp_path / "out"
    if command == "compress":
        done = model.compress(out, *QUICK)
    elif command == "plan":
        done = lathe("plan", str(model.model), "--keep", "70%", "--calibration", str(model.text))
    else:
        options = ("--quantize", "int8") if "quantize" in command else ()
        done = lathe("export", str(model.model), "-o", str(out), *options)
    assert done.exit_code == 1, done.output
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "layer 0 differs first" in errors[0]
    assert "use_sliding_window" in errors[0]
    assert {*tmp_path.rglob("*")} == left


def test_a_resumed_run_does_not_compare_again(tiny: Tiny, tmp_path: Path) -> None:
    killed = tiny.killed(tmp_path / "out", "evaluate:5", "--keep", "60%", "--export", "checkpoint")
    assert AGREES in killed.stderr
    done = tiny.compress(tmp_path / "out", "--keep", "60%", "--export", "checkpoint")
    assert done.exit_code == 0, done.output
    assert "resuming" in done.stderr
    assert AGREES not in done.stderr


def test_made_up_weights_are_not_evaluated(tiny: Tiny, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny.model, tmp_path / "model"))
    tensors = load_file(model / WEIGHTS)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, model / WEIGHTS, {"format": "pt"})
    done = lathe("evaluate", str(model), "--text", str(tiny.text), "--window", "64")
    assert done.exit_code == 1
    assert "does not find `model.layers.1.mlp.up_proj.weight`" in done.stderr
