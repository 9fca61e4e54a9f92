"""The playground as a person meets it."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Locator, expect

from conftest import SCHEMES, WIDTHS, Visit, serving

QUESTION = "My fellow Americans, the state of our Union is strong."
LENGTHS = """
() => {
  window.lengths = [];
  const note = () => window.lengths.push(document.querySelector(".text")?.textContent.length ?? 0);
  new MutationObserver(note).observe(document.querySelector(".log"), {subtree: true, childList: true});
}
"""


def opened(visit: Visit, url: str) -> None:
    visit.page.goto(url)
    visit.page.wait_for_selector(".column")


def ask(visit: Visit, text: str = QUESTION, tokens: int = 64, temperature: float = 0) -> None:
    page = visit.page
    page.get_by_role("spinbutton", name="Tokens").fill(str(tokens))
    page.get_by_role("spinbutton", name="Temperature").fill(str(temperature))
    page.get_by_role("textbox", name=re.compile("Message|Text to go on with")).fill(text)
    page.keyboard.press("Enter")


def answered(visit: Visit) -> Locator:
    """The answers, once all are complete."""
    expect(visit.page.get_by_role("button", name="Send")).to_be_enabled()
    return visit.page.locator("article .text")


def from_api(url: str, tokens: int = 64) -> str:
    model = json.load(urlopen(f"{url}/v1/models"))["data"][0]["id"]
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": tokens,
        "temperature": 0,
    }
    headers = {"content-type": "application/json"}
    request = Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    answer: dict[str, Any] = json.load(urlopen(request))
    return str(answer["choices"][0]["message"]["content"])


def test_both_models_answer_side_by_side(visit: Visit, subnet: str, dense: str) -> None:
    opened(visit, subnet)
    ask(visit)
    answers = answered(visit)
    expect(answers).to_have_count(2)
    assert answers.all_inner_texts() == [from_api(subnet), from_api(dense)]
    columns = visit.page.locator(".column")
    for number, variant in enumerate(("subnet", "dense")):
        expect(columns.nth(number).locator("h2")).to_contain_text(variant)
        stats = columns.nth(number).locator(".stats").inner_text()
        said = re.fullmatch(r"first token (\S+) ms · (\d+) tokens in (\S+) s · (\S+) tokens/s", stats)
        assert said, stats
        first, tokens, seconds, rate = (float(text.replace(",", "")) for text in said.groups())
        assert first <= 1000 * seconds + 1
        assert rate == pytest.approx(tokens / seconds, rel=0.02)
        memory = re.compile(r"weights \d.* · process \d+ MiB")
        expect(columns.nth(number).locator(".memory")).to_have_text(memory)
    expect(visit.page.locator("#status")).to_contain_text("tokens/s")
    assert visit.hosts() == {subnet.removeprefix("http://")}
    assert visit.complaints == []


def test_an_answer_appears_as_it_is_written(visit: Visit, subnet: str) -> None:
    opened(visit, subnet)
    visit.page.evaluate(LENGTHS)
    ask(visit, tokens=600, temperature=1.2)
    answered(visit)
    lengths = visit.page.evaluate("window.lengths")
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 2
    assert visit.complaints == []


def test_a_second_question_knows_of_the_first(visit: Visit, subnet: str) -> None:
    sent: list[dict[str, Any]] = []
    visit.page.on("request", lambda r: sent.append(r.post_data_json) if r.method == "POST" else None)
    opened(visit, subnet)
    for text in ("one", "two"):
        ask(visit, text, tokens=8)
        answered(visit)
    assert [len(body["messages"]) for body in sent] == [1, 1, 3, 3]
    assert [m["content"] for m in sent[2]["messages"]][::2] == ["one", "two"]
    visit.page.get_by_role("button", name="Clear").click()
    expect(visit.page.locator("article")).to_have_count(0)
    ask(visit, "three", tokens=8)
    answered(visit)
    assert len(sent[4]["messages"]) == 1


def test_stop_ends_both_answers(visit: Visit, subnet: str, dense: str) -> None:
    opened(visit, subnet)
    visit.page.get_by_label("one after the other").uncheck()
    ask(visit, tokens=900, temperature=2)
    visit.page.get_by_role("button", name="Stop").click()
    answered(visit)
    assert "stopped" in visit.page.locator("#status").inner_text()
    for url in (subnet, dense):
        deadline = time.monotonic() + 10
        while running(url) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert running(url) == 0
    assert visit.complaints == []


def running(url: str) -> float:
    text = urlopen(f"{url}/metrics").read().decode()
    return float(re.search(r"^lathe_requests_running\{.*\} (\S+)$", text, re.MULTILINE)[1])  # type: ignore[index]


def test_metrics_move(visit: Visit, subnet: str) -> None:
    page = visit.page
    opened(visit, subnet)
    tab = page.get_by_role("tab", name="Chat")
    tab.focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Metrics")).to_be_focused()
    rates = page.locator(".card", has_text="Tokens per second")
    expect(rates.locator(".now").first).to_have_text("0")
    page.keyboard.press("ArrowLeft")
    ask(visit, tokens=300, temperature=1)
    answered(visit)
    page.get_by_role("tab", name="Metrics").click()
    expect(rates.get_by_role("img")).to_have_attribute("aria-label", re.compile(r"top [1-9]"))
    memory = page.locator(".card", has_text="Process memory").locator(".now")
    assert all(float(text.replace(",", "")) > 10 for text in memory.all_inner_texts())
    for path in rates.locator("path").all():
        assert path.get_attribute("d")
    assert visit.complaints == []


def test_a_server_with_a_key_asks_for_it_and_the_page_forgets_it(visit: Visit, artefact: Path) -> None:
    page = visit.page
    with serving(artefact, LATHE_API_KEY="our secret") as url:
        page.goto(url)
        field = page.get_by_label("API key")
        expect(field).to_be_focused()
        field.fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert").first).to_contain_text("does not take that key")
        field.fill("our secret")
        page.keyboard.press("Enter")
        page.wait_for_selector(".column")
        ask(visit)
        assert answered(visit).all_inner_texts()[0]
        kept = page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]")
        assert kept == [0, 0, ""]
        assert not [address for address in visit.asked if "secret" in address]
        assert {text for text in visit.complaints if "401" not in text} == set()
        page.reload()
        expect(page.get_by_label("API key")).to_be_visible()


def test_a_model_without_a_chat_template_goes_on_with_a_text(visit: Visit, plain_model: Path) -> None:
    with serving(plain_model) as url:
        opened(visit, url)
        expect(visit.page.get_by_label("Text to go on with")).to_be_visible()
        expect(visit.page.locator("#turns")).to_be_hidden()
        ask(visit)
        assert answered(visit).all_inner_texts()[0]
        assert visit.complaints == []


def test_a_server_to_compare_with_that_is_gone_leaves_the_other(visit: Visit, artefact: Path) -> None:
    with serving(artefact, "--compare", "http://127.0.0.1:9") as url:
        opened(visit, url)
        expect(visit.page.locator("#alone")).to_contain_text("does not answer")
        ask(visit)
        assert len(answered(visit).all_inner_texts()) == 1
    ask(visit)
    expect(visit.page.locator("article .error")).to_contain_text("the server does not answer")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_and_is_accessible(visit: Visit, subnet: str, width: str, scheme: str) -> None:
    opened(visit, subnet)
    for text in (QUESTION, "What is Python?"):
        ask(visit, text, tokens=100, temperature=0.7)
        answered(visit)
    expect(visit.page.locator(".memory").first).not_to_be_empty()
    assert visit.sideways() == 0
    assert visit.accessibility() == []
    visit.shoot(f"playground-{width}-{scheme}", whole=False)
    visit.page.get_by_role("tab", name="Metrics").click()
    drawn = visit.page.locator(".card").first.get_by_role("img")
    expect(drawn).to_have_attribute("aria-label", re.compile("top"))
    assert visit.sideways() == 0
    assert visit.accessibility() == []
    visit.shoot(f"metrics-{width}-{scheme}")
    assert visit.complaints == []
