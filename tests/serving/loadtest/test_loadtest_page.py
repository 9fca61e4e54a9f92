"""The HTML page: complete in itself, readable without its pictures, and true to the document."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from lathe.serving.cli.loadtest import loadtest
from lathe.serving.loadtest.compare import compare
from lathe.serving.loadtest.find_capacity import find_capacity
from lathe.serving.loadtest.load import Load
from lathe.serving.loadtest.mock import Mock
from lathe.serving.loadtest.page.html import STYLE, page
from lathe.serving.loadtest.page.svg import Plot, ticks
from lathe.serving.loadtest.slo import parse_slo

ServeMock = Callable[[Mock], str]
VOID = {"meta", "br", "path", "circle"}

app = typer.Typer()
app.command()(loadtest)


class Reader(HTMLParser):
    """Keeps the text, the tags and their attributes; a tag that is not closed is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append((self.open[-1] if self.open else "", data.strip()))

    def of(self, tag: str) -> list[str]:
        return [text for inside, text in self.text if inside == tag]


@pytest.fixture
def pair(serve_mock: ServeMock) -> dict[str, str]:
    dense = serve_mock(Mock(ttft_s=0.05, itl_each_s=0.05, model="<script>alert(1)</script>"))
    return {"dense": dense, "subnet": serve_mock(Mock(model="half"))}


def of_rounds(pair: dict[str, str], **pattern: Any) -> dict[str, Any]:
    load = Load(**{"requests": 4, "warmup": 0, "output_tokens": 3, **pattern})
    return compare(pair["subnet"], pair["dense"], load, rounds=2)


def of_levels(pair: dict[str, str]) -> dict[str, Any]:
    load = Load(concurrency=1, requests=4, warmup=0, output_tokens=2)
    return find_capacity({"dense": pair["dense"]}, load, parse_slo("tpot=75ms", "75%"), rounds=1)


def check_alone(text: str) -> Reader:
    reader = Reader(text)
    names = {tag for tag, _ in reader.tags}
    assert names.isdisjoint({"script", "link", "img", "iframe", "object"})
    assert not any({"src", "href", "onload", "style"} & set(attributes) for _, attributes in reader.tags)
    assert "url(" not in text
    assert "@import" not in text
    assert "alert(1)" not in re.sub(r"&lt;script&gt;alert\(1\)&lt;/script&gt;", "", text)
    return reader


def test_a_comparison_is_a_page_of_its_own(pair: dict[str, str]) -> None:
    whole = of_rounds(pair, concurrency=2)
    reader = check_alone(page(whole))
    assert {"TTFT p95", "output tokens/s", "errors"} <= set(reader.of("th"))
    tokens = whole["systems"]["subnet"]["output_tokens_per_second"]
    assert f"{tokens:,.2f}" in reader.of("td")
    figures = [tag for tag, _ in reader.tags if tag == "figure"]
    assert len(figures) == 4
    assert len(reader.of("desc")) == 4
    assert reader.of("desc")[1].startswith("dense: half within ")
    assert set(reader.of("dt")) == set(whole["definitions"])
    assert len(reader.of("pre")) == 1


def test_a_load_that_changes_shows_its_course(pair: dict[str, str]) -> None:
    reader = check_alone(page(of_rounds(pair, rate=40.0)))
    assert "TTFT by the time sent" in reader.of("figcaption")


def test_a_search_is_a_page_of_its_own(pair: dict[str, str]) -> None:
    whole = of_levels(pair)
    reader = check_alone(page(whole))
    assert whole["systems"]["dense"]["most"] == 2
    assert any(
        text.startswith("dense: 2 users within the SLO; 3 users are too many") for text in reader.of("p")
    )
    assert "TPOT, p95, and its limit" in reader.of("figcaption")
    assert "100% at 1, 100% at 2, " in reader.of("desc")[0]


def test_failures_alone_make_a_page_too(serve_mock: ServeMock) -> None:
    url = serve_mock(Mock(fault="500"))
    whole = compare(url, url, Load(concurrency=1, requests=2, warmup=0), rounds=1)
    assert "2 of 2" in check_alone(page(whole)).of("td")


def test_the_command_writes_it(pair: dict[str, str], tmp_path: Path) -> None:
    small = ["--requests", "2", "--warmup", "0", "--output-tokens", "2", "--prompt-tokens", "8"]
    written = tmp_path / "page.html"
    told = CliRunner().invoke(app, [pair["subnet"], *small, "--html", str(written)])
    assert told.exit_code == 0, told.output
    assert check_alone(written.read_text()).of("title")[0] == "Load test: server (half)"


@pytest.mark.parametrize("theme", [0, 1])
def test_colours_stand_out_in_light_and_dark(theme: int) -> None:
    found = re.findall(r":root \{([^}]*)\}", STYLE)[theme]
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", found))
    for name, least in (("ink", 7), ("soft", 4.5), ("s0", 3), ("s1", 3)):
        assert contrast(colours[name], colours["paper"]) >= least


def contrast(a: str, b: str) -> float:
    """WCAG 2's contrast ratio."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("most_value", [0, 0.013, 1, 7, 99, 100, 101, 2_345.6, float("nan")])
def test_ticks_are_few_and_reach_the_largest_value(most_value: float) -> None:
    found = ticks(most_value)
    assert found[0] == 0
    assert 3 <= len(found) <= 6 + 1
    assert not most_value > found[-1]


def test_a_plot_keeps_its_marks_few_and_inside() -> None:
    plot = Plot("t", "x", "a", "b", top=10)
    plot.marks(0, [(float(i), 1e6) for i in range(5_000)])
    drawn = re.findall(r"translate\(([\d.]+) ([\d.]+)\)", plot.svg())
    assert 200 < len(drawn) <= 400
    assert all(float(y) >= 12 for _, y in drawn)
