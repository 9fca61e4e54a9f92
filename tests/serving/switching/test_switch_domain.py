"""--switch domain: the router chooses by the prompt, once for a call, and the server does what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lathe.artefact.errors import UserError
from lathe.artefact.family import Family, FamilyPlan, read_family, write_family
from lathe.artefact.router import Router, write_router
from lathe.serving.backend import GenerationRequest
from lathe.serving.decoding.sampling import SamplingParams
from lathe.serving.launch.family import default_chooser
from lathe.serving.options import ServeOptions
from lathe.serving.switching.chooser import choosers
from lathe.serving.switching.choosers.domain import DomainChooser
from support.tiny_family import SMALL, WIDE, RunningFamily, save_family
from support.tiny_server import started

DIGITS, LETTERS = range(48, 58), range(97, 123)


def router(plans: tuple[str, str], fallback: str, vocabulary: int = 400) -> Router:
    """Ids of digits speak for the first plan, those of letters for the second, others for neither."""
    scores = np.zeros((vocabulary, 2), np.float32)
    scores[list(DIGITS), 0] = scores[list(LETTERS), 1] = 8
    return Router(scores, np.zeros(2, np.float32), plans, fallback, (0.9, 0.9), 256, 2.0)


def request(*tokens: int, choice: int = 0) -> GenerationRequest:
    sampling = SamplingParams()
    return GenerationRequest(np.asarray(tokens, np.int64), sampling, 4, 0.0, choice=choice)


@pytest.fixture
def chooser() -> DomainChooser:
    return DomainChooser(router(("code", "chat"), "general"))


def test_each_prompt_goes_to_its_domain(chooser: DomainChooser) -> None:
    assert chooser.choose([request(*[50] * 9)]).subnet == "code"
    found = chooser.choose([request(*[100] * 9), request(*[100] * 9, choice=1)])
    assert (found.subnet, found.reason) == ("chat", "domain: chat at 100%")


def test_what_is_not_sure_goes_to_the_general_subnet(chooser: DomainChooser) -> None:
    unsure = chooser.choose([request(50, 100, 100)])
    assert unsure.subnet == "general"
    assert unsure.reason.startswith("domain: chat at ")
    assert unsure.reason.endswith("not the 90% that it needs")
    assert chooser.choose([]).subnet == "general"
    apart = chooser.choose([request(*[50] * 9), request(*[100] * 9)])
    assert (apart.subnet, apart.reason) == ("general", "domain: prompts of several")


def family(directory: Path, **facts: Any) -> Family:
    names = ("general", "code", "chat")
    for name in names:
        (directory / "plans" / name).mkdir(parents=True)
        (directory / "plans" / name / "manifest.json").write_text("{}")
    write_family(directory, [FamilyPlan(name, f"plans/{name}") for name in names], **facts)
    return read_family(directory)


def test_family_with_a_router_is_routed_by_default(tmp_path: Path) -> None:
    described = write_router(tmp_path, router(("code", "chat"), "general"))
    routed = family(tmp_path, router=described)
    assert default_chooser(routed) == "domain"
    made = choosers.get("domain")(routed, ServeOptions(out=tmp_path))
    assert made.choose([request(*[50] * 9)]).subnet == "code"
    with pytest.raises(UserError, match="does not take --slo"):
        choosers.get("domain")(routed, ServeOptions(out=tmp_path, slo="tpot=30ms"))


def test_family_without_a_router_is_not(tmp_path: Path) -> None:
    plain = family(tmp_path)
    assert default_chooser(plain) == "widest"
    with pytest.raises(UserError, match="has no router"):
        choosers.get("domain")(plain, ServeOptions(out=tmp_path))


def test_server_answers_by_the_domain_of_the_prompt(tmp_path: Path) -> None:
    place = save_family(tmp_path)
    routed = DomainChooser(router((WIDE, SMALL), SMALL))
    with started(RunningFamily(place, routed, {}, max_batch=2)) as server:
        for prompt, subnet in (([50] * 9, WIDE), ([100] * 9, SMALL)):
            answer = server.post("completions", model="family", prompt=prompt, max_tokens=2)
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-lathe-subnet"] == subnet
            assert answer.headers["x-lathe-subnet-reason"] == f"domain: {subnet} at 100%"
        forced = server.post("completions", model=f"family:{SMALL}", prompt=[50] * 9, max_tokens=2)
        assert forced.headers["x-lathe-subnet"] == SMALL
