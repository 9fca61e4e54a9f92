"""The report page: complete, self-contained, and safe whatever a report holds."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lathe.compressor.report.page import write_page
from lathe.serving.served_model import open_served_model
from support import steady_clock
from support.compress_command import Tiny, lathe

pytestmark = pytest.mark.usefixtures("steady")
RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"
HOSTILE = "</title><script>alert(1)</script><img src=\"http://evil.test/x\" onerror='x'>"
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Elements with their attributes, what is open at the end, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def artefact(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a whole run with a latency target."""
    with pytest.MonkeyPatch.context() as patch:
        steady_clock.hold(patch)
        patch.setenv("LATHE_CACHE", str(tmp_path_factory.mktemp("cache")))
        out = tmp_path_factory.mktemp("run") / "out"
        done = tiny.compress(out, "--target-speedup", "1.3x")
    assert done.exit_code == 0, done.output
    return out


def copied(artefact: Path, to: Path, change: Any = None) -> Page:
    """The page of a report that was changed."""
    report = json.loads((artefact / "report.json").read_text())
    if change:
        change(report)
    (to / "report.json").write_text(json.dumps(report))
    (to / "trace.jsonl").write_bytes((artefact / "trace.jsonl").read_bytes())
    write_page(to, to / "page.html")
    return Page((to / "page.html").read_text())


def test_a_run_ends_with_a_page_that_answers_every_question(artefact: Path) -> None:
    page = Page((artefact / "report.html").read_text())
    assert page.open == []
    sections = [section["id"] for section in page.all("section")]
    assert sections == ["shape", "front", "latency", "parts", "search", "samples", "made"]
    assert all(f"#{name}" in [a["href"] for a in page.all("a")] for name in sections)
    pictures = [svg for svg in page.all("svg") if "role" in svg]
    assert len(pictures) >= 6
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in pictures)
    commands = len([div for div in page.all("div") if div.get("class") == "command"])
    assert commands == len(sections)

    report = json.loads((artefact / "report.json").read_text())
    assert f"{report['latency']['measured_ms']:.3g}" in page.text
    for row in report["samples"]["rows"]:
        assert row["dense"].strip() in page.text
        assert row["subnet"].strip() in page.text
    for layer in report["layers"]:
        assert f"{layer['ffn']} of {report['dense_layer']['ffn']}" in page.text


def test_the_cost_of_quantization_is_shown_apart_from_that_of_pruning(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = tiny.compress(out, "--keep", "60%", "--quantize", "int4")
    assert done.exit_code == 0, done.output
    page = Page((out / "report.html").read_text())
    assert "stored" in [section["id"] for section in page.all("section")]
    report = json.loads((out / "report.json").read_text())
    for when in (report["perplexity"], report["quantization"]["perplexity"]):
        assert all(f"{when[model]:.3f}" in page.text for model in ("dense", "subnet"))
    assert f"{report['quantization']['weight_bytes']['after'] / 2**20:,.2f} MiB" in page.text
    assert "rounding to nearest" in page.text


def test_weights_for_vllm_that_are_not_rounded_have_the_checkpoints_type(
    artefact: Path, tmp_path: Path
) -> None:
    def mix(report: dict[str, Any]) -> None:
        size, error = {"before": 2**22, "after": 2**20}, {"median": 0.006, "max": 0.14}
        formats = {"float": {"matrices": 3}, "w8a8": {"matrices": 7, "relative_error": error}}
        report["quantization"] = {"scheme": "mixed", "formats": formats, "weight_bytes": size}
        report["quantization"]["relative_error"] = error
        next(layer for layer in report["layers"] if layer["ffn"])["ffn_bits"] = 8

    text = copied(artefact, tmp_path, mix).text
    assert "full colour have weights of the checkpoint's type" in text
    assert "Embedding and head: the checkpoint's type." in text
    assert "Stored as float, w8a8 by block, 1.00 MiB" in text
    assert "float32;" not in text


def test_every_format_of_mixed_weights_is_counted(artefact: Path, tmp_path: Path) -> None:
    eight, four = ({"median": error, "max": 2 * error} for error in (0.006, 0.07))

    def mix(report: dict[str, Any]) -> None:
        report["quantization"] = {
            "scheme": "mixed",
            "formats": {
                "float32": {"matrices": 3},
                "int8": {"matrices": 7, "groups": {"64": 7}, "relative_error": eight},
                "int4": {"matrices": 5, "groups": {"32": 5}, "relative_error": four},
            },
            "relative_error": {"median": 0.006, "max": 0.14},
            "weight_bytes": {"before": 2**22, "after": 2**20},
            "loss": report["loss"],
            "perplexity": {model: report["perplexity"][model] for model in ("dense", "subnet")},
        }

    text = copied(artefact, tmp_path, mix).text
    assert "What mixed precision costs" in text
    assert "Stored as float32, int8, int4 by block, 1.00 MiB" in text
    assert "3 of its matrices are float32." in text
    assert "5 of its matrices are int4, moved by 7.0 % of their norm (median) to 14.0 %." in text
    assert "rounding to nearest" not in text


def test_what_the_page_draws_is_what_was_measured(artefact: Path) -> None:
    report = json.loads((artefact / "report.json").read_text())
    parts, front = report["latency"]["parts_ms"], report["front"]
    for name in ("dense", "subnet"):
        total = (
            parts[name]["step"]
            + parts[name]["head"]
            + sum(parts[name]["attention"])
            + sum(parts[name]["ffn"])
        )
        measured = report["latency"]["measured_ms" if name == "subnet" else "dense_ms"]
        assert total == pytest.approx(measured, rel=0.02)
    costs, sensitivities = ([point[name] for point in front["points"]] for name in ("cost", "damage"))
    assert costs == sorted(costs)
    assert sensitivities == sorted(sensitivities, reverse=True)
    assert sensitivities[-1] == 0
    assert front["chosen"]["cost"] == pytest.approx(report["latency"]["predicted_ms"], rel=1e-6)
    assert sensitivities[0] >= front["chosen"]["damage"] > 0


def test_the_page_loads_nothing_and_runs_nothing(artefact: Path) -> None:
    text = (artefact / "report.html").read_text()
    page = Page(text)
    assert not {tag for tag, _ in page.elements} & {"script", "link", "img", "iframe", "object"}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert (attributes.get("href") or "#").startswith("#")
    assert "url(" not in text
    assert "@import" not in text


def test_names_and_texts_are_never_markup(artefact: Path, tmp_path: Path) -> None:
    def poison(report: dict[str, Any]) -> None:
        report["model"] = dict.fromkeys(report["model"], HOSTILE)
        report["calibration"]["text"] = report["perplexity"]["text"] = report["command"] = HOSTILE
        report["machine"] = {HOSTILE: HOSTILE}
        report["samples"]["rows"] = [{"prompt": HOSTILE, "chat": False, "dense": HOSTILE, "subnet": HOSTILE}]

    page = copied(artefact, tmp_path, poison)
    assert not {tag for tag, _ in page.elements} & {"script", "img"}
    assert page.text.count(HOSTILE) >= 8


def test_inspect_makes_the_page_again(artefact: Path, tmp_path: Path) -> None:
    done = lathe("inspect", str(artefact), "--html", str(tmp_path / "again.html"))
    assert done.exit_code == 0, done.output
    assert (tmp_path / "again.html").read_bytes() == (artefact / "report.html").read_bytes()


def test_the_manifest_lists_the_page_and_the_server_does_without(artefact: Path, tmp_path: Path) -> None:
    manifest = json.loads((artefact / "manifest.json").read_text())
    assert "report.html" in manifest["files"]
    copy = shutil.copytree(artefact, tmp_path / "copy")
    (copy / "report.html").unlink()
    assert open_served_model(copy).compressed


def test_reports_of_earlier_versions_have_a_page_with_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes((RESULTS / "compress-ref-7m-1.5x.json").read_bytes())
    write_page(tmp_path, tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    assert [section["id"] for section in page.all("section")] == ["shape", "latency", "made"]


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    for content in ("nonsense", "[]", "{}"):
        (tmp_path / "report.json").write_text(content)
        done = lathe("inspect", str(tmp_path), "--html", str(tmp_path / "page.html"))
        assert done.exit_code == 1
        assert "report" in done.output
        assert "Traceback" not in done.output
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("options", [["--keep", "60%"], ["--keep", "60%", "--export", "checkpoint"]])
def test_a_run_without_a_latency_target_has_a_front_of_sizes(
    tiny: Tiny, tmp_path: Path, options: list[str]
) -> None:
    out = tmp_path / "out"
    done = tiny.compress(out, *options)
    assert done.exit_code == 0, done.output
    page = Page((out / "report.html").read_text())
    sections = [section["id"] for section in page.all("section")]
    timed = "--export" not in options
    assert sections == ["shape", "front", *(["latency"] if timed else []), "search", "samples", "made"]
    report = json.loads((out / "report.json").read_text())
    assert report["front"]["chosen"]["cost"] == report["decoder_parameters_kept"]
