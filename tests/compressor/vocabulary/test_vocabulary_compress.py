"""`compress --vocabulary`: the artefact has the smaller tokenizer, and targets are of the given model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lathe.artefact.modeling import register
from lathe.artefact.onnx.graph_format import GRAPH
from lathe.artefact.onnx.runner import OnnxRunner
from lathe.artefact.plan import LayerShape, Plan
from lathe.compressor.latency.backends.onnx import OnnxBackend
from lathe.serving.served_model import open_served_model
from support import steady_clock
from support.compress_command import Tiny, lathe
from support.tiny_tokenizers import WORDS, byte_level, save_model

pytestmark = pytest.mark.usefixtures("steady", "own_cache")
MS_PER_ROW = 0.004
QUICK = ("--method", "quick")


@dataclass(frozen=True)
class Wide(Tiny):
    """A model whose vocabulary is wider than a text needs."""

    corpus: Path

    def cut(self, out: Path, *options: str) -> Any:
        return self.compress(out, "--vocabulary", str(self.corpus), *QUICK, *options)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Wide:
    place = tmp_path_factory.mktemp("wide")
    model = save_model(place / "tiny", byte_level(), hidden_size=64)
    corpus, text = place / "corpus", place / "text.txt"
    corpus.mkdir()
    (corpus / "a.txt").write_text(" ".join(WORDS[:25]))
    sentences = (" ".join(WORDS[i % 15 : i % 15 + 8]) for i in range(700))
    text.write_text(". ".join(sentences))
    return Wide(model, text, corpus)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture
def wide_head(steady: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes longer by the rows of the head, too."""

    def prepare(backend: OnnxBackend, directory: Path, *settings: Any) -> Callable[[], float]:
        step = steady_clock.prepare(backend, directory, *settings)
        graph = onnx.load(directory / "model.onnx", load_external_data=False).graph
        rows = graph.output[0].type.tensor_type.shape.dim[-1].dim_value
        return lambda: step() + MS_PER_ROW * rows

    monkeypatch.setattr(OnnxBackend, "prepare", prepare)


def test_the_artefact_has_fewer_rows_and_runs_alike_everywhere(wide: Wide, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = wide.cut(out, "--keep", "60%")
    assert done.exit_code == 0, done.output
    report = read(out / "report.json")
    vocabulary, tokenizer = report["vocabulary"], AutoTokenizer.from_pretrained(out)
    rows = vocabulary["rows"]
    assert rows["subnet"] == len(tokenizer) < rows["dense"] == 505
    assert vocabulary["table_bytes"]["subnet"] == 4 * 64 * rows["subnet"]
    assert report["parameters"]["dense"] - report["parameters"]["subnet"] > 64 * (505 - rows["subnet"])
    assert report["model"]["path"] == str(wide.model)
    assert f"{rows['subnet']:,} of 505 tokens" in done.stdout.replace("\n", " ")
    page = (out / "report.html").read_text()
    assert f"{rows['subnet']:,} of 505 tokens" in page
    assert "Loss, nats per byte" in page

    register()
    model = AutoModelForCausalLM.from_pretrained(out).eval()
    tokens = torch.tensor([tokenizer("the library lends books to the sea")["input_ids"]])
    with torch.no_grad():
        expected = model(tokens).logits[0].numpy()
    assert expected.shape[1] == rows["subnet"]
    runner = OnnxRunner(out / GRAPH, max_batch=1, max_length=tokens.shape[1])
    np.testing.assert_allclose(runner.prefill(0, tokens[0].numpy(), "all"), expected, atol=1e-3)
    assert open_served_model(out).context == 512


def test_losses_are_stated_by_byte_of_text(wide: Wide, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = wide.cut(out, "--keep", "60%", "--export", "checkpoint", "--evaluation", str(wide.text))
    assert done.exit_code == 0, done.output
    report = read(out / "report.json")
    loss = report["vocabulary"]["loss_per_byte"]
    per_token = report["loss"]["subnet"] / report["loss"]["dense"]
    assert loss["subnet"] / loss["cut"] == pytest.approx(per_token)
    assert loss["cut"] < loss["dense"], "the text has kept tokens only, and the others took probability"

    tokenizer, model = (c.from_pretrained(wide.model) for c in (AutoTokenizer, AutoModelForCausalLM))
    ids = tokenizer(wide.text.read_text())["input_ids"]
    windows = torch.tensor(ids[: len(ids) // 512 * 512]).view(-1, 512)
    assert report["perplexity"]["tokens"] == windows[:, 1:].numel()
    with torch.no_grad():
        logprobs = model(windows).logits[:, :-1].log_softmax(-1)
    nats = -float(logprobs.gather(-1, windows[:, 1:, None]).sum())
    size = sum(len(tokenizer.decode(window[1:]).encode()) for window in windows)
    assert loss["dense"] == pytest.approx(nats / size, rel=1e-4)


@pytest.mark.usefixtures("wide_head")
def test_a_speed_up_is_of_the_model_that_was_given(wide: Wide, tmp_path: Path) -> None:
    done = wide.cut(tmp_path / "out", "--target-speedup", "1.6x", "--json")
    report = json.loads(done.stdout)
    latency, rows = report["latency"], report["vocabulary"]["rows"]
    blocks = {name: steady_clock.milliseconds(plan) for name, plan in plans(report).items()}
    given, subnet = (blocks[name] + MS_PER_ROW * rows[name] for name in ("dense", "subnet"))
    assert latency["dense_ms"] == pytest.approx(given)
    assert latency["measured_ms"] == pytest.approx(subnet)
    assert latency["target_ms"] == pytest.approx(given / 1.6)
    assert subnet <= given / 1.6 * 1.02
    assert blocks["dense"] + MS_PER_ROW * rows["subnet"] > given / 1.6, "the cut alone is not enough"
    for name, total in (("dense", given), ("subnet", subnet)):
        parts = latency["parts_ms"][name]
        whole = parts["step"] + parts["head"] + sum(parts["attention"]) + sum(parts["ffn"])
        assert whole == pytest.approx(total, rel=0.02)
        assert parts["head"] == pytest.approx(MS_PER_ROW * rows[name], rel=0.02)
    assert latency["pruning_limit"]["head_ms"] == pytest.approx(MS_PER_ROW * rows["subnet"], rel=0.02)


def plans(report: Any) -> dict[str, Plan]:
    layers = report["layers"]
    return {
        name: Plan(tuple(LayerShape(**layer) for layer in found))
        for name, found in (("dense", [report["dense_layer"]] * len(layers)), ("subnet", layers))
    }


@pytest.mark.usefixtures("wide_head")
def test_a_cut_that_is_fast_enough_is_all_that_is_done(wide: Wide, tmp_path: Path) -> None:
    done = wide.cut(tmp_path / "out", "--target-speedup", "1.05x", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["decoder_parameters_kept"] == 1
    assert report["latency"]["speedup"] > 1.05
    assert report["met"] is True


@pytest.mark.usefixtures("wide_head")
def test_bits_are_searched_of_what_a_cut_leaves(wide: Wide, tmp_path: Path) -> None:
    """By default, and not where the cut alone is enough."""
    model = save_model(tmp_path / "tiny", byte_level(), hidden_size=64, intermediate_size=96)
    rounding = replace(wide, model=model, bits=())
    done = rounding.cut(tmp_path / "cut", "--target-memory", "1GiB")
    assert done.exit_code == 0, done.output
    assert "the cut vocabulary alone meets the target" in done.stderr
    assert not Plan.load(tmp_path / "cut" / "plan.json").rounded
    done = rounding.cut(tmp_path / "out", "--target-speedup", "1.6x")
    assert done.exit_code == 0, done.output
    report = read(tmp_path / "out" / "report.json")
    assert Plan.load(tmp_path / "out" / "plan.json").rounded
    assert report["latency"]["speedup"] >= 1.6 * 0.98
    assert report["loss"]["dense"] == report["quantization"]["loss"]["dense"]
    assert report["vocabulary"]["rows"]["subnet"] < report["vocabulary"]["rows"]["dense"]


def test_a_cut_that_meets_the_target_leaves_the_layers_alone(wide: Wide, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = wide.cut(out, "--keep", "100%", "--export", "checkpoint")
    assert done.exit_code == 0, done.output
    assert "the cut vocabulary alone meets the target" in done.stderr
    assert all(layer == Plan.load(out / "plan.json")[0] for layer in Plan.load(out / "plan.json"))
    report = read(out / "report.json")
    assert report["decoder_parameters_kept"] == 1
    loss = report["vocabulary"]["loss_per_byte"]
    assert loss["subnet"] == pytest.approx(loss["cut"], rel=1e-5)


@pytest.mark.usefixtures("wide_head")
def test_a_dry_run_tells_what_is_kept(wide: Wide, tmp_path: Path) -> None:
    card = json.loads(wide.cut(tmp_path / "out", "--target-speedup", "1.3x", "--dry-run", "--json").stdout)
    latency, rows = card["latency"], card["vocabulary"]["rows"]
    saved = MS_PER_ROW * (rows["dense"] - rows["subnet"])
    assert latency["dense_ms"] == pytest.approx(latency["unpruned_ms"] + saved)
    assert latency["target_ms"] == pytest.approx(latency["dense_ms"] / 1.3)
    limit, kept = latency["pruning_limit"], MS_PER_ROW * rows["subnet"]
    assert limit["head_ms"] == pytest.approx(kept)
    assert limit["share"] == pytest.approx(latency["floor_ms"] / latency["dense_ms"])
    shown = " ".join(wide.cut(tmp_path / "out", "--target-speedup", "1.3x", "--dry-run").stdout.split())
    assert "of 505 tokens" in shown
    assert "so no plan gets faster than" in shown


def test_options_repeat_the_run_and_a_profile_is_refused(wide: Wide, tmp_path: Path) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    assert wide.cut(out, "--keep", "70%", "--export", "checkpoint").exit_code == 0
    assert read(out / "options.json")["vocabulary"] == str(wide.corpus)
    done = lathe("compress", "--config", str(out / "options.json"), "-o", str(again))
    assert done.exit_code == 0, done.output
    for name in ("model.safetensors", "tokenizer.json", "config.json", "plan.json"):
        assert (out / name).read_bytes() == (again / name).read_bytes()
    refused = wide.cut(tmp_path / "no", "--target-speedup", "1.3x", "--profile", "here.json")
    assert refused.exit_code == 1
    assert "--profile is of the whole vocabulary" in refused.output


def test_a_target_out_of_reach_names_the_head(wide: Wide, tmp_path: Path) -> None:
    done = wide.compress(tmp_path / "out", "--target-speedup", "50x")
    assert done.exit_code == 1
    message = " ".join(done.output.split())
    assert "the head alone takes" in message
    assert "so no plan gets faster than" in message
    assert "--vocabulary TEXT makes the head smaller" in message


def test_a_plan_is_of_the_cut_model(wide: Wide) -> None:
    texts = ("--calibration", str(wide.text), "--calibration-tokens", "2048")
    done = lathe("plan", str(wide.model), "--vocabulary", str(wide.corpus), "--no-latency", *texts, "--json")
    assert done.exit_code == 0, done.output
    advice = json.loads(done.stdout)
    rows = advice["card"]["vocabulary"]["rows"]
    assert rows["subnet"] < rows["dense"] == 505
    assert advice["other_bytes_float16"] == 2 * 64 * (rows["subnet"] + 1), "embedding and the last norm"
