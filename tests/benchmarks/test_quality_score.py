"""The comparison's evaluation code against transformers, and its budget arithmetic."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.quality import score
from benchmarks.quality.score import Judge
from benchmarks.quality.setting import Setting


def test_dense_scores_as_transformers_says(setting: Setting) -> None:
    model = AutoModelForCausalLM.from_pretrained(setting.source.path, dtype=torch.float32).eval()
    windows = setting.heldout
    with torch.inference_mode():
        logits = model(input_ids=windows).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    judge = Judge(setting, windows)
    found = judge.score(setting.subnet(list(setting.layers)).hidden)
    assert found.loss == pytest.approx(float(expected), rel=1e-5)
    assert judge.dense_loss == pytest.approx(found.loss, rel=1e-6)
    assert found.kl == pytest.approx(0, abs=1e-6)
    assert found.agreement == 1


@pytest.mark.parametrize("tokens", [1, 7, 1000])
def test_another_model_scores_by_its_full_kl_and_top_token(
    setting: Setting, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "_SLICE_BYTES", tokens * 4 * setting.shape.vocab_size)
    layers = [*setting.layers[:-1], {}]
    found = Judge(setting, setting.heldout).score(setting.subnet(layers).hidden)
    dense = setting.head.logprobs(setting.hidden(setting.layers, setting.heldout))[:, :-1]
    other = setting.head.logprobs(setting.hidden(layers, setting.heldout))[:, :-1]
    expected = torch.nn.functional.kl_div(other, dense, log_target=True, reduction="none").sum(-1).mean()
    assert found.kl == pytest.approx(float(expected), rel=1e-4)
    assert found.acceptance == pytest.approx(float(torch.minimum(dense, other).exp().sum(-1).mean()))
    assert found.agreement == pytest.approx(float((dense.argmax(-1) == other.argmax(-1)).float().mean()))


@pytest.mark.parametrize("keep", [0.9, 0.7, 0.5, 0.3, 0.15])
def test_uniform_widths_fill_the_budget(setting: Setting, keep: float) -> None:
    shape, layer = setting.shape, setting.uniform(keep)
    used = shape.decoder_parameters([layer] * shape.num_layers)
    assert used <= keep * setting.dense_parameters
    if layer.ffn < shape.layer.ffn:
        wider = type(layer)(layer.query_heads, layer.kv_heads, layer.ffn + 1)
        assert shape.decoder_parameters([wider] * shape.num_layers) > keep * setting.dense_parameters
