"""The comparison of domains: masks against a model cut by hand, and a whole run with its tables."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.domains import __main__ as domains
from benchmarks.domains.activation import masked, mean_activations, top_channels
from lathe.compressor.model.reference import load_dense
from support import steady_clock
from support.compress_command import make_tiny
from support.domain_texts import make_texts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("domains_bench")).model


def test_activations_are_means_of_what_down_projections_read(model: Path) -> None:
    dense, tokens = load_dense(model), torch.arange(3 * 20).view(3, 20)
    mlp = dense.model.layers[1].mlp
    seen: list[torch.Tensor] = []
    handle = mlp.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        dense(tokens)
        handle.remove()
        inner = mlp.act_fn(mlp.gate_proj(seen[0])) * mlp.up_proj(seen[0])
    found = mean_activations(dense, tokens)
    torch.testing.assert_close(found[1].float(), inner.abs().flatten(0, 1).mean(0))
    kept = top_channels(found, 10)
    assert kept.sum(-1).tolist() == [10, 10]
    assert found[1][kept[1]].min() > found[1][~kept[1]].max()


def test_masked_model_is_the_one_without_the_channels(model: Path) -> None:
    dense, cut, tokens = load_dense(model), load_dense(model), torch.arange(20)[None]
    masks = torch.rand(2, 96, generator=torch.Generator().manual_seed(0)) < 0.5
    with torch.no_grad():
        for layer, mask in zip(cut.model.layers, masks, strict=True):
            layer.mlp.down_proj.weight[:, ~mask] = 0
        plain = dense(tokens).logits
        with masked(dense, masks) as one:
            torch.testing.assert_close(one(tokens).logits, cut(tokens).logits)
        assert torch.equal(dense(tokens).logits, plain)


def test_run_compares_at_equal_milliseconds(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steady_clock.hold(monkeypatch)
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path / "cache"))
    places = make_texts(tmp_path)
    given = [f"--domain={name}={place}" for name, place in places.items()]
    options = ["--target-speedup", "1.2x", "--tokens", "1024", "--context", "64", "--method", "quick"]
    out = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "domains.json")]
    monkeypatch.setattr(sys, "argv", ["domains", "--model", str(model), *given, *options, *out])
    assert domains.main() == 0
    rows = json.loads((tmp_path / "domains.json").read_text())["rows"]
    assert {(row["variant"], row["domain"]) for row in rows} == {
        (variant, name)
        for variant in ("own subnet", "general subnet", "own masks", "masks of all text")
        for name in places
    }
    by_variant = {row["variant"]: row["table_ms"] for row in rows}
    assert by_variant["own masks"] <= by_variant["general subnet"]
    printed = capsys.readouterr().out
    assert "| own subnet / general subnet |" in printed
    assert "FFN channels of all domains:" in printed
    monkeypatch.setattr(domains, "compress_domains", None)
    assert domains.main() == 0
