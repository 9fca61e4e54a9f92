"""The router: trained on windows of separable text, kept in a file, and falling back where it is not sure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from lathe.artefact.errors import UserError
from lathe.artefact.family import Family, FamilyPlan, read_family, write_family
from lathe.artefact.router import Router, read_router, write_router
from lathe.compressor.routing.assess import assess
from lathe.compressor.routing.features import PRIOR, Vocabulary, excerpts
from lathe.compressor.routing.softmax_regression import fit
from lathe.compressor.routing.threshold import NEVER, choose_thresholds
from lathe.compressor.routing.train import train_router

VOCABULARY, WIDTH, WINDOW = 60, 48, 64
DOMAINS = ("code", "chat", "prose")
LOSSES = torch.tensor([[1.0, 1, 1], [0.5, 2, 2], [2, 0.5, 2], [2, 2, 0.5]])
"""The general subnet, then one for each domain, on the text of each domain."""


def windows(seed: int, count: int = 6, shared: float = 0.3) -> dict[str, torch.Tensor]:
    """Windows of each domain: most tokens are of a range of its own, a share of them of a common one."""
    draw = torch.Generator().manual_seed(seed)
    made = {}
    for number, name in enumerate(DOMAINS):
        own = torch.randint(10 + 15 * number, 25 + 15 * number, (count, WINDOW), generator=draw)
        common = torch.randint(1, 10, (count, WINDOW), generator=draw)
        made[name] = torch.where(torch.rand(count, WINDOW, generator=draw) < shared, common, own)
    return made


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    table = torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(1))
    return Vocabulary(table, VOCABULARY, torch.tensor([0]))


@pytest.fixture(scope="module")
def router(vocabulary: Vocabulary) -> Router:
    return train_router(vocabulary, windows(2), "general", LOSSES).router


def test_scores_of_tokens_are_the_classifier_on_mean_embeddings(vocabulary: Vocabulary) -> None:
    found = excerpts(vocabulary, [*windows(2).values()])
    trained = train_router(vocabulary, windows(2), "general", LOSSES)
    classifier = fit(found.features, found.labels, found.weights, len(DOMAINS), trained.ridge)
    prompt = windows(3)["chat"][0]
    feature = vocabulary.embedding[prompt].sum(0) / (len(prompt) + PRIOR)
    expected = classifier.probabilities(feature[None])[0]
    np.testing.assert_allclose(trained.router.probabilities(prompt.numpy()), expected, atol=1e-5)


def test_regression_is_at_the_minimum_of_its_objective() -> None:
    draw = torch.Generator().manual_seed(0)
    X = torch.randn(50, 4, generator=draw)
    X = (X - X.mean(0)) / X.std(0, correction=0)
    labels, weights = torch.randint(0, 3, (50,), generator=draw), torch.full((50,), 1 / 50)
    found = fit(X, labels, weights, 3, 0.1)
    W, b = (part.clone().requires_grad_() for part in (found.weights, found.bias))
    loss = torch.nn.functional.cross_entropy(X @ W + b, labels) + 0.05 * W.square().sum()
    loss.backward()
    assert W.grad is not None
    assert b.grad is not None
    assert max(float(W.grad.abs().max()), float(b.grad.abs().max())) < 1e-3


def test_held_out_text_goes_to_its_domain(router: Router) -> None:
    found = assess(router, windows(4))
    assert found["accuracy"] > 0.95
    assert found["microseconds"] > 0
    for name, row in found["confusion"].items():
        assert max(row, key=row.__getitem__) == name
        assert sum(row.values()) == 6 * (4 + 2 + 1)


def test_prompts_that_say_nothing_go_to_the_general_subnet(router: Router) -> None:
    assert router([]).plan == "general"
    assert router([0] * 40).plan == "general", "special tokens count nothing"
    mixed = [*range(10, 55)] * 3
    assert router(mixed).plan == "general"
    assert router(mixed).probability < router(mixed).threshold


def test_only_the_beginning_of_a_prompt_counts(router: Router) -> None:
    code, chat = (windows(5)[name].flatten().tolist() for name in ("code", "chat"))
    start = (code * 2)[: router.tokens]
    assert router(start + chat) == router(start)


def probabilities(confidences: list[float], choices: list[int]) -> torch.Tensor:
    rows = [
        [c if k == choice else 1 - c for k in range(2)]
        for c, choice in zip(confidences, choices, strict=True)
    ]
    return torch.tensor(rows)


def test_threshold_is_where_the_expected_loss_is_least() -> None:
    losses = torch.tensor([[1.0, 1.0], [0.9, 2.0], [2.0, 0.9]])
    labels, even = torch.tensor([0, 1, 0, 1]), torch.full((4,), 0.25)
    right = probabilities([0.95, 0.9, 0.8, 0.7], [0, 1, 0, 1])
    assert choose_thresholds(right, labels, even, losses) == pytest.approx((0.8, 0.7))
    one_wrong = probabilities([0.95, 0.9, 0.8, 0.7], [0, 1, 1, 1])
    assert choose_thresholds(one_wrong, labels, even, losses) == pytest.approx((0.95, 0.9))
    none_of_one = probabilities([0.95, 0.9, 0.8, 0.7], [0, 0, 0, 0])
    assert choose_thresholds(none_of_one, labels, even, losses) == pytest.approx((0.95, NEVER))


def test_domain_that_gains_nothing_is_never_gone_to() -> None:
    losses = torch.tensor([[1.0, 1.0], [0.9, 2.0], [2.0, 1.1]])
    right = probabilities([0.95, 0.9, 0.8, 0.7], [0, 1, 0, 1])
    found = choose_thresholds(right, torch.tensor([0, 1, 0, 1]), torch.full((4,), 0.25), losses)
    assert found == pytest.approx((0.8, NEVER))


def family(directory: Path, router: Router) -> Family:
    names = ("general", *DOMAINS)
    for name in names:
        (directory / "plans" / name).mkdir(parents=True)
        (directory / "plans" / name / "manifest.json").write_text("{}")
    plans = [FamilyPlan(name, f"plans/{name}", domain=None if name == "general" else name) for name in names]
    write_family(directory, plans, router=write_router(directory, router))
    return read_family(directory)


def test_router_of_a_family_is_read_as_it_was_written(tmp_path: Path, router: Router) -> None:
    found = read_router(family(tmp_path, router))
    assert found is not None
    for prompts in windows(6).values():
        for prompt in prompts.numpy():
            assert found(prompt) == router(prompt)


def test_family_without_domains_has_no_router(tmp_path: Path, router: Router) -> None:
    made = family(tmp_path, router)
    write_family(tmp_path, made.plans)
    assert read_router(read_family(tmp_path)) is None


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [(flip, "is damaged"), (lambda file: file.write_bytes(b""), "is damaged"), (Path.unlink, "is missing")],
)
def test_damaged_router_is_refused(tmp_path: Path, router: Router, change: object, message: str) -> None:
    made = family(tmp_path, router)
    change(tmp_path / "router.safetensors")  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        read_router(made)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"fallback": "other"}, "'other', which is none of its subnets"),
        ({"plans": ["code", "chat"], "thresholds": [0.5, 0.5]}, "not a router of 2 domains"),
        ({"thresholds": [0.5, None, 0.5]}, "does not describe its router"),
        ({"tokens": 0}, "does not describe its router"),
    ],
)
def test_description_that_does_not_fit_is_refused(
    tmp_path: Path, router: Router, facts: Mapping[str, object], message: str
) -> None:
    made = family(tmp_path, router)
    write_family(tmp_path, made.plans, router=write_router(tmp_path, router) | facts)
    with pytest.raises(UserError, match=message):
        read_router(read_family(tmp_path))
