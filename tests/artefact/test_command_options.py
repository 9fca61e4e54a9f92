"""Options that are declared once: what typer makes of a dataclass, and what a file of options may say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
from typer.testing import CliRunner

from lathe.artefact.command_options import Argument, Option, command_of, recorded, words
from lathe.artefact.errors import UserError


def percent(text: str) -> float:
    if not text.endswith("%"):
        raise UserError(f"`{text}` is not a share", "Write it like 80%.")
    return float(text[:-1])


@dataclass(frozen=True, kw_only=True)
class Bake:
    cake: Annotated[str, Argument(help="What is baked.")]
    sugar: Annotated[float | None, Option(help="Such as 20%.", parser=percent, unit="%")] = None
    layers: Annotated[int, Option(help="Layers [of cake].", least=1)] = 3
    fruit: Annotated[tuple[str, ...], Option(help="Fruit.", flags=("--fruit", "-f"))] = ()
    toppings: Annotated[tuple[str, ...], Option(help="On top.", parser=words)] = ("cream", "nuts")
    shape: Annotated[Literal["round", "square"], Option(help="Its shape.")] = "round"
    glaze: Annotated[bool, Option(help="With a glaze.")] = False
    recipe: Annotated[Path | None, Option(help="A file.", unset="none", recorded=False)] = None
    bake_minutes: Annotated[int, Option(help="In the oven.")] = 40
    secret: int = 7


baked: list[tuple[Bake, bool]] = []


@command_of(Bake)
def bake(options: Bake, loud: Annotated[bool, typer.Option("--loud", help="Tell.")] = False) -> None:
    """Bakes a cake."""
    baked.append((options, loud))


app = typer.Typer()
app.command()(bake)


def run(*arguments: str) -> tuple[Bake, bool]:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return baked.pop()


def refused(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 1, done.output
    assert not baked
    return done.stderr


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_the_fields_are_the_command() -> None:
    assert run("tart") == (Bake(cake="tart"), False)
    given = ["--sugar", "20%", "--layers", "2", "-f", "fig", "--fruit", "plum", "--toppings", "icing"]
    found, loud = run("tart", *given, "--shape", "square", "--glaze", "--recipe", "a/b", "--loud")
    assert loud
    assert found == Bake(
        cake="tart",
        sugar=20.0,
        layers=2,
        fruit=("fig", "plum"),
        toppings=("icing",),
        shape="square",
        glaze=True,
        recipe=Path("a/b"),
    )


def test_typer_still_checks() -> None:
    assert CliRunner().invoke(app, ["tart", "--layers", "0"]).exit_code == 2
    assert CliRunner().invoke(app, ["tart", "--shape", "oval"]).exit_code == 2
    assert CliRunner().invoke(app, []).exit_code == 2


def test_help_shows_defaults_and_brackets() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120"}).stdout
    for said in ("Layers [of cake].", "[default: 3]", "cream,nuts", "(none)", "--no-glaze", "--config"):
        assert said in shown


@pytest.mark.parametrize("name", ["run.yaml", "run.json"])
def test_a_file_gives_what_the_command_line_does_not(tmp_path: Path, name: str) -> None:
    document = {"cake": "pie", "sugar": "5%", "fruit": ["fig"], "glaze": True, "loud": True, "recipe": None}
    file = written(tmp_path / name, json.dumps(document))
    expected = Bake(cake="pie", sugar=5.0, fruit=("fig",), glaze=True)
    assert run("--config", file) == (expected, True)
    found, loud = run("tart", "--sugar", "9%", "--no-glaze", "-f", "plum", "--config", file)
    assert (found, loud) == (Bake(cake="tart", sugar=9.0, fruit=("plum",)), True)


def test_keys_have_dashes_or_underscores_and_values_no_quotes(tmp_path: Path) -> None:
    file = written(tmp_path / "run.yaml", "# comment\ncake: pie\nbake_minutes: 50\n--layers: 1\n")
    assert run("--config", file)[0] == Bake(cake="pie", bake_minutes=50, layers=1)
    file = written(tmp_path / "run.yaml", "cake: pie\nbake-minutes: 30\n")
    assert run("--config", file)[0].bake_minutes == 30
    assert run("tart", "--config", written(tmp_path / "empty.yaml", ""))[0] == Bake(cake="tart")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("layer: 2", "there is no option `layer`. The nearest is `layers`."),
        ("help: true", "there is no option `help`. The nearest is "),
        ("config: x", "there is no option `config`. The nearest is "),
        ("layers: many", "layers is 'many': "),
        ("layers: 1.5", "layers is 1.5: "),
        ("layers: true", "layers: True is neither text nor a number. Put text in quotes."),
        ("layers: 0", "layers is 0: "),
        ("shape: oval", "shape is 'oval': 'oval' is not one of 'round', 'square'"),
        ("glaze: 1", "glaze: 1 is neither true nor false"),
        ("cake: [a, b]", "cake: ['a', 'b'] is neither text nor a number"),
        ("cake: no", "cake: False is neither text nor a number"),
        ("sugar: 20", "sugar: `20` is not a share. Write it like 80%."),
        ("- cake", "holds no options. Write one on each line, such as `threads: 2`."),
        ("a: [", "is not YAML: "),
    ],
)
def test_what_a_file_may_not_say_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    file = written(tmp_path / "run.yaml", text)
    told = refused("tart", "--config", file)
    assert told.startswith(f"error: {file}")
    assert said in told
    assert told.count("\n") == 1


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "No such file" in refused("tart", "--config", str(tmp_path / "run.yaml"))


def test_what_is_recorded_makes_the_same_options(tmp_path: Path) -> None:
    options = Bake(cake="pie", sugar=12.5, fruit=("fig",), glaze=True, recipe=Path("x"))
    document = recorded(options)
    assert document == {
        "cake": "pie",
        "sugar": "12.5%",
        "layers": 3,
        "fruit": ["fig"],
        "toppings": "cream,nuts",
        "shape": "round",
        "glaze": True,
        "bake-minutes": 40,
    }
    again = run("--recipe", "x", "--config", written(tmp_path / "options.json", json.dumps(document)))
    assert again == (options, False)


@dataclass(frozen=True, kw_only=True)
class Write:
    source: Annotated[str, Argument(help="What is read.")]
    target: Annotated[
        str,
        Option(help="Written.", unset="SOURCE.out", follows=lambda given: f"{given['source']}.out"),
    ]


def test_a_value_that_is_not_given_follows_from_others() -> None:
    made: list[str] = []

    @command_of(Write)
    def write(options: Write) -> None:
        made.append(options.target)

    application = typer.Typer()
    application.command()(write)
    for arguments in (["a"], ["a", "--target", "b"]):
        assert CliRunner().invoke(application, arguments).exit_code == 0
    assert made == ["a.out", "b"]
    assert "(SOURCE.out)" in CliRunner().invoke(application, ["--help"]).stdout
