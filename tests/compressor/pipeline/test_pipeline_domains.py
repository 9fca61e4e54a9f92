"""Domains: a general subnet and one for each kind of text in one directory, with a router before them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result

from lathe.artefact.directory import open_artefact
from lathe.artefact.family import read_family
from lathe.artefact.plan import LayerShape, ModelShape
from lathe.artefact.router import read_router
from lathe.artefact.tokenizer import open_tokenizer
from lathe.compressor.calibration.amount import held_out
from lathe.compressor.calibration.tokens import read_calibration
from lathe.compressor.model.checkpoint import open_checkpoint
from lathe.compressor.model.pruning import Selection
from lathe.compressor.pipeline.domain_texts import text_of_all
from lathe.compressor.pipeline.shared_units import shared_units
from support import steady_clock
from support.compress_command import Tiny, content, killed_at, lathe, make_tiny
from support.domain_texts import code, make_texts, prose

TARGET = ("--target-speedup", "1.3x", "--method", "quick", "--refinements", "0")


@dataclass(frozen=True)
class Texts:
    """A tiny model, and texts of two kinds."""

    tiny: Tiny
    prose: Path
    code: Path

    @property
    def options(self) -> tuple[str, ...]:
        return ("--domain", f"prose={self.prose}", "--domain", f"code={self.code}")

    def compress(self, out: Path, *options: str) -> Result:
        return lathe("compress", *self.arguments(out, *options))

    def arguments(self, out: Path, *options: str) -> list[str]:
        given = self.tiny.arguments(out, *TARGET, *self.options, *options)
        at = given.index("--calibration")
        return given[:at] + given[at + 2 :]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Texts, Path]:
    place = tmp_path_factory.mktemp("domains")
    with pytest.MonkeyPatch.context() as patch:
        steady_clock.hold(patch)
        patch.setenv("LATHE_CACHE", str(place / "cache"))
        texts = Texts(make_tiny(place), **make_texts(place))
        done = texts.compress(place / "out")
    assert done.exit_code == 0, done.output
    assert "held-out loss" in done.stdout
    assert "router:" in done.stdout
    return texts, place / "out"


@pytest.fixture(scope="module")
def texts(made: tuple[Texts, Path]) -> Texts:
    return made[0]


@pytest.fixture(scope="module")
def out(made: tuple[Texts, Path]) -> Path:
    return made[1]


def test_there_is_a_subnet_for_any_text_and_one_for_each_domain(out: Path) -> None:
    family = read_family(out)
    assert [(plan.name, plan.domain) for plan in family.plans] == [
        ("general", None),
        ("prose", "prose"),
        ("code", "code"),
    ]
    for plan in family.plans:
        artefact = open_artefact(family.directory(plan))
        artefact.verify()
        latency = artefact.report["latency"]
        assert latency["target_speedup"] == 1.3
        assert plan.measured_ms == latency["measured_ms"] <= latency["target_ms"]
    assert not out.with_name("out.run").exists()


def test_each_subnet_is_of_its_own_text(texts: Texts, out: Path) -> None:
    calibrated = {
        plan.name: open_artefact(out / plan.path).report["calibration"] for plan in read_family(out).plans
    }
    assert calibrated["prose"]["text"] == str(texts.prose)
    assert calibrated["code"]["text"] == str(texts.code)
    assert calibrated["general"]["tokens"] > calibrated["code"]["tokens"]


def test_loss_of_a_subnet_on_its_own_text_is_what_it_was_verified_with(out: Path) -> None:
    facts = json.loads((out / "family.json").read_text())["domains"]
    for name in ("prose", "code"):
        report = open_artefact(out / "plans" / name).report
        assert facts["loss"][name][name] == pytest.approx(report["loss"]["subnet"], abs=1e-5)
        assert facts["loss"]["dense"][name] == pytest.approx(report["loss"]["dense"], abs=1e-5)


def test_router_knows_text_of_the_domains_and_is_not_sure_of_others(texts: Texts, out: Path) -> None:
    router = read_router(read_family(out))
    assert router is not None
    tokenizer = open_tokenizer(texts.tiny.model)
    for name, write in (("prose", prose), ("code", code)):
        for number in range(100, 110):
            assert router(tokenizer(write(number)[:200])["input_ids"]).likeliest == name
    assert router([]).plan == "general"


def test_routing_is_reported_beside_the_oracle(out: Path) -> None:
    facts = json.loads((out / "family.json").read_text())["domains"]
    routing, loss = facts["routing"], facts["loss"]
    assert routing["accuracy"] > 0.95
    for name, row in routing["confusion"].items():
        gains = loss[name][name] < loss["general"][name]
        assert row[name if gains else "general"] >= 0.8 * sum(row.values())
    assert routing["loss"]["oracle"] == pytest.approx(np.mean([loss[name][name] for name in loss["dense"]]))
    general = np.mean([*loss["general"].values()])
    assert routing["loss"]["general"] == pytest.approx(general)
    best = np.mean([min(loss[name][name], loss["general"][name]) for name in loss["dense"]])
    assert best - 1e-9 <= routing["loss"]["automatic"] <= general + 1e-9


def test_inspect_shows_the_domains(out: Path) -> None:
    shown = lathe("inspect", str(out))
    assert shown.exit_code == 0, shown.output
    assert "held-out loss" in shown.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("point", ["replace:9", "replace:12", "replace:30", "rename:2", "rename:4"])
def test_killed_run_goes_on_and_ends_with_the_same_family(
    texts: Texts, out: Path, tmp_path: Path, point: str
) -> None:
    killed = killed_at(point, texts.arguments(tmp_path / "out"))
    assert killed.returncode == -9, killed.stderr
    assert not (tmp_path / "out").exists()
    again = texts.compress(tmp_path / "out")
    assert again.exit_code == 0, again.output
    assert "resuming from" in again.stderr
    weights = (".safetensors", ".data", ".onnx")
    same = [str(file.relative_to(out)) for file in out.rglob("*") if file.suffix in weights]
    assert len(same) > 6
    assert content(tmp_path / "out", same) == content(out, same)


@pytest.mark.usefixtures("steady", "own_cache")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--domain", "a=TEXT"], "--domain a is the only domain"),
        (["--domain", "a=TEXT", "--domain", "a=CODE"], "--domain a is given twice"),
        (["--domain", "a=TEXT", "--domain", "b"], "--domain b is not NAME=TEXT"),
        (
            ["--domain", "a=TEXT", "--domain", "b c=CODE"],
            "the domain 'b c' cannot be a part of a model's name",
        ),
        (["--domain", "a=TEXT", "--domain", "general=CODE"], "a domain cannot be called general"),
        (["--domain", "a=TEXT", "--domain", "b=self"], "--domain b=self has no text of its own"),
        (["--domain", "a=TEXT", "--domain", "b=EMPTY"], "the domain b: the text"),
        (["--domain", "a=TEXT", "--domain", "b=nowhere.txt"], "the domain b: there is no"),
        (["--domain", "a=TEXT", "--domain", "b=SHORT"], "the domain b has too little text"),
        (
            ["--domain", "a=TEXT", "--domain", "b=CODE,TEXT"],
            "the domains a and b share 8 documents: number 1 of",
        ),
        (["--domain", "a=TEXT", "--domain", "b=CODE", "--front"], "--front and --domain cannot be combined"),
        (
            ["--domain", "a=TEXT", "--domain", "b=CODE", "--target-speedup", "1.2x,2x"],
            "several targets and --domain",
        ),
        (["--domain", "a=TEXT", "--domain", "b=CODE", "--evaluation", "TEXT"], "--evaluation and --domain"),
        (["--domain", "a=TEXT", "--domain", "b=CODE", "--target-speedup", "900x"], "is out of reach"),
    ],
)
def test_what_makes_no_family_is_refused_and_nothing_is_left(
    texts: Texts, tmp_path: Path, options: list[str], message: str
) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "short.txt").write_text(code(99)[:300])
    places = {"TEXT": texts.prose, "CODE": texts.code}
    places |= {name.upper(): tmp_path / f"{name}.txt" for name in ("empty", "short")}
    for name, place in places.items():
        options = [option.replace(name, str(place)) for option in options]
    before = {*tmp_path.iterdir()}
    target = () if "--target-speedup" in options or "--front" in options else TARGET
    done = lathe(
        "compress", str(texts.tiny.model), "-o", str(tmp_path / "out"), "--context", "64", *target, *options
    )
    assert done.exit_code == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()[-1:]) == 1
    assert {*tmp_path.iterdir()} - before <= {tmp_path / "cache"}


def test_text_of_all_fits_on_nothing_that_is_held_out_of_a_domain(texts: Texts) -> None:
    source = open_checkpoint(str(texts.tiny.model))
    read = {
        name: read_calibration(source, str(place), tokens=tokens, window=64, seed=0)
        for name, place, tokens in (("prose", texts.prose, 2048), ("code", texts.code, 1024))
    }
    found = text_of_all(read).windows
    assert found is not None
    held = held_out(len(found))
    apart = [w for text in read.values() for w in text.windows[held_out(len(text.windows))]]
    assert not any(torch.equal(w, other) for w in apart for other in found[~held])
    assert any(torch.equal(w, other) for w in apart for other in found[held])
    for text in read.values():
        for window in text.windows[~held_out(len(text.windows))]:
            assert any(torch.equal(window, other) for other in found)


def test_shared_units_are_those_that_all_keep() -> None:
    def kept(heads: list[int], channels: list[int]) -> Selection:
        return Selection(torch.tensor([0]), torch.tensor(heads), torch.tensor(channels))

    shape = ModelShape(64, 320, 16, True, 2, LayerShape(4, 2, 6))
    found = shared_units(
        shape,
        {
            "a": [kept([0, 1], [0, 1, 2]), kept([], [5])],
            "b": [kept([1], [2, 1]), kept([3], [0, 5])],
        },
    )
    assert found["query_heads"] == {"dense": 8, "core": 1, "any": 3, "kept": {"a": 2, "b": 2}}
    assert found["channels"] == {"dense": 12, "core": 3, "any": 5, "kept": {"a": 4, "b": 4}}
