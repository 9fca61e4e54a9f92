"""`lathe evaluate --text`: the published protocol and the distance to dense, against transformers."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lathe.artefact.errors import UserError
from lathe.compressor.evaluate.compare import scores
from support.compress_command import Tiny, lathe


@pytest.fixture(scope="module")
def other(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with every weight a little off."""
    path = tmp_path_factory.mktemp("other") / "model"
    shutil.copytree(tiny.model, path)
    model = AutoModelForCausalLM.from_pretrained(path)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(path)
    return path


def logits_and_ids(model: Path, text: str, window: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The protocol written out: one tokenisation, every full window by itself."""
    ids = torch.tensor(AutoTokenizer.from_pretrained(model)(text)["input_ids"])
    windows = [ids[i : i + window] for i in range(0, len(ids) - window + 1, window)]
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = torch.stack([loaded(w[None]).logits[0] for w in windows])
    return logits[:, :-1], torch.stack(windows)[:, 1:]


def test_perplexity_is_that_of_the_published_protocol(tiny: Tiny, tmp_path: Path) -> None:
    sentences = tiny.text.read_text().split(". ")
    lines = [". ".join(sentences[i : i + 50]) for i in range(0, 600, 50)]
    lines.insert(3, "")
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    (row,) = scores([str(tiny.model)], str(tmp_path / "rows.jsonl"))
    logits, ids = logits_and_ids(tiny.model, "\n\n".join(lines), 512)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())
    assert (row["window"], row["tokens"]) == (512, ids.numel())
    assert row["loss"] == pytest.approx(float(expected), rel=1e-5)
    assert row["perplexity"] == pytest.approx(math.exp(float(expected)), rel=1e-4)


def test_the_distance_to_dense_is_over_the_whole_vocabulary(tiny: Tiny, other: Path) -> None:
    asked = scores([str(other), str(tiny.model)], str(tiny.text), 300, 2, against=str(tiny.model))
    row, same = asked
    mine, _ = logits_and_ids(other, tiny.text.read_text(), 300)
    theirs, _ = logits_and_ids(tiny.model, tiny.text.read_text(), 300)
    logs = [x[:2].log_softmax(-1) for x in (mine, theirs)]
    kl = torch.nn.functional.kl_div(*logs, log_target=True, reduction="none").sum(-1).mean()
    assert row["kl"] == pytest.approx(float(kl), rel=1e-3)
    assert row["agreement"] == pytest.approx(float((mine.argmax(-1) == theirs.argmax(-1))[:2].float().mean()))
    assert row["against"] == str(tiny.model)
    assert 0 < row["agreement"] < 1
    assert same["kl"] == pytest.approx(0, abs=1e-6)
    assert same["agreement"] == 1
    assert row["tokens"] == same["tokens"] == 2 * 299


def test_models_share_the_shortest_context(tiny: Tiny, tmp_path: Path) -> None:
    short = shutil.copytree(tiny.model, tmp_path / "short")
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 128}))
    assert [row["window"] for row in scores([str(tiny.model), str(short)], str(tiny.text), most=1)] == [
        128
    ] * 2
    with pytest.raises(UserError, match=r"--window 200 is longer than the context of .*short, 128 tokens"):
        list(scores([str(tiny.model), str(short)], str(tiny.text), 200))


def test_models_with_other_tokens_are_not_compared(tiny: Tiny, tmp_path: Path) -> None:
    other = shutil.copytree(tiny.model, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["post_processor"] = None
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert len(list(scores([str(tiny.model), str(other)], str(tiny.text), most=1))) == 2
    with pytest.raises(UserError, match=r"split .* into different tokens"):
        list(scores([str(other)], str(tiny.text), most=1, against=str(tiny.model)))


def test_too_short_a_text_is_named(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("few words")
    with pytest.raises(UserError, match=r"short\.txt is shorter than one window of 512 tokens"):
        list(scores([str(tiny.model)], str(tmp_path / "short.txt")))


def test_the_command_prints_a_line_or_json_per_model(tiny: Tiny, other: Path) -> None:
    arguments = ("evaluate", str(other), "--text", str(tiny.text), "--windows", "2", "--window", "64")
    shown = lathe(*arguments)
    assert shown.exit_code == 0
    assert "(126 tokens, windows of 64)" in shown.stdout
    assert "KL" not in shown.stdout
    compared = lathe(*arguments, "--against", str(tiny.model))
    (row,) = json.loads(lathe(*arguments, "--against", str(tiny.model), "--json").stdout)
    assert f"KL {row['kl']:.4f} nats/token, same top token {row['agreement']:.1%}" in compared.stdout
    assert f"{other}: perplexity {row['perplexity']:.3f}" in compared.stdout
