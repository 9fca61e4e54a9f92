"""What is asked of every published method: the budget is kept and used, nothing cut changes nothing, and
the same setting gives the same subnet; on grouped and ungrouped heads, tied and untied, with biases,
and where layers differ and norms follow blocks."""

from __future__ import annotations

import pytest
import torch
from tiny_setting import EVERY_KIND, make_setting

from benchmarks.quality.baselines import gisp
from benchmarks.quality.blocks import kinds
from benchmarks.quality.setting import Setting, baselines

WIDTHS = ("magnitude", "wanda-sp", "flap", "llm-pruner", "gisp", "grasprune", "flap-local")
LAYERS = ("shortgpt", "sleb")


@pytest.fixture(autouse=True)
def little_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gisp, "_TOKENS", 32)


@pytest.fixture(scope="module", params=EVERY_KIND)
def any_setting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return make_setting(tmp_path_factory.mktemp("dense"), **EVERY_KIND[request.param])


@pytest.mark.parametrize("keep", [0.9, 0.7, 0.5, 0.3])
@pytest.mark.parametrize("method", [*WIDTHS, *LAYERS])
def test_the_budget_is_kept_and_used(any_setting: Setting, method: str, keep: float) -> None:
    shape, budget = any_setting.shape, keep * any_setting.dense_parameters
    step = shape.num_layers * 6 * shape.hidden_size
    if method in LAYERS:
        step = any_setting.dense_parameters // shape.num_layers
    if method == "gisp":
        step += kinds(any_setting)[0].parameters
    subnet = baselines.get(method)(any_setting, keep)
    assert budget - step < subnet.parameters <= budget
    assert subnet.plan is not None
    added = subnet.parameters - shape.decoder_parameters(subnet.plan)
    assert 0 <= added <= (2 * shape.num_layers * shape.hidden_size if method.startswith("flap") else 0)
    assert torch.isfinite(subnet.logprobs(any_setting.heldout)).all()


@pytest.mark.parametrize("method", [*WIDTHS, *LAYERS])
def test_keeping_everything_is_the_dense_model(any_setting: Setting, method: str) -> None:
    subnet, windows = baselines.get(method)(any_setting, 1.0), any_setting.heldout
    assert subnet.parameters == any_setting.dense_parameters
    expected = any_setting.subnet(any_setting.layers).logprobs(windows)
    torch.testing.assert_close(subnet.logprobs(windows), expected)


@pytest.mark.parametrize("method", [*WIDTHS, *LAYERS])
def test_the_same_setting_gives_the_same_subnet(setting: Setting, method: str) -> None:
    first, second = (baselines.get(method)(setting, 0.6) for _ in range(2))
    assert torch.equal(first.logprobs(setting.heldout), second.logprobs(setting.heldout))
