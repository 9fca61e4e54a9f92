"""The report page of a real run, as a person sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import expect

from conftest import SCHEMES, WIDTHS, Visit

SMALLEST = """
() => Math.min(...[...document.querySelectorAll("figure svg text")].map((text) => {
  const svg = text.ownerSVGElement;
  const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  return scale * parseFloat(getComputedStyle(text).fontSize);
}))
"""
OUTSIDE = """
() => [...document.querySelectorAll("figure svg")].flatMap((svg) => {
  const frame = svg.getBoundingClientRect();
  const marks = [...svg.querySelectorAll("text, rect, circle, path")];
  return marks.filter((mark) => {
    const box = mark.getBoundingClientRect();
    return box.left < frame.left - 1 || box.right > frame.right + 1;
  }).map((mark) => mark.outerHTML.slice(0, 120));
})
"""


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_is_legible_and_accessible(visit: Visit, artefact: Path, width: str, scheme: str) -> None:
    page, report = visit.page, json.loads((artefact / "report.json").read_text())
    page.goto((artefact / "report.html").as_uri())
    expect(page.get_by_role("heading", level=1)).to_have_text(report["model"]["name"])
    titles = page.get_by_role("heading", level=2)
    expect(titles).to_have_count(8)
    assert page.locator("figure svg").count() >= 6
    assert visit.sideways() == 0
    visit.shoot(f"report-{width}-{scheme}")
    assert page.evaluate(SMALLEST) >= 9
    assert page.evaluate(OUTSIDE) == []
    for summary in page.locator("summary").all():
        summary.focus()
        page.keyboard.press("Enter")
    expect(page.get_by_role("table")).to_have_count(7)
    assert visit.sideways() == 0
    assert visit.accessibility() == []
    assert visit.complaints == []
    assert [url for url in visit.asked if not url.startswith("file:")] == []


def test_its_top_is_the_picture_of_the_readme(visit: Visit, artefact: Path) -> None:
    """Reduced to 256 colours, build/browser/readme.png is docs/images/report.png."""
    visit.page.set_viewport_size({"width": 1200, "height": 1040})
    visit.page.goto((artefact / "report.html").as_uri())
    expect(visit.page.get_by_role("heading", name="Quality against latency")).to_be_in_viewport()
    visit.shoot("readme", whole=False)
