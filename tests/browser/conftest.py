"""Real servers, a real run, and a browser that notes what a page does besides showing itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

ROOT = Path(__file__).parents[2]
TOOLS, SHOTS, MODEL = ROOT / "build" / "tools", ROOT / "build" / "browser", ROOT / "demo" / "model"
PYTHON = os.environ.get("LATHE_PYTHON", str(ROOT / ".venv" / "bin" / "python"))
SCHEMES, WIDTHS = ("light", "dark"), {"desktop": 1200, "phone": 360}
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def lathe(*arguments: object) -> list[str]:
    return [PYTHON, "-m", "lathe", *map(str, arguments)]


def environment(**variables: str) -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"} | variables


@pytest.fixture(scope="session")
def artefact() -> Path:
    """A whole run on the demo model, with every section of its page; ARTEFACT=dir takes one that is there."""
    if given := os.environ.get("ARTEFACT"):
        return Path(given).resolve()
    out, heldout = SHOTS / "artefact", ROOT / "demo" / "heldout.txt"
    options = [
        "--target-speedup",
        "1.4x",
        "--tolerance",
        0.3,
        "-o",
        out,
        "--overwrite",
        "--calibration",
        heldout,
        "--calibration-tokens",
        8192,
        "--quantize",
        "int4",
    ]
    command = lathe("compress", MODEL, *options)
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=1800)
    assert done.returncode in (0, 3), done.stderr  # 3: written, but slower than asked, on a busy machine
    return out


@contextmanager
def serving(model: Path, *options: object, **variables: str) -> Iterator[str]:
    """The URL of a `lathe serve` that is ready."""
    command = lathe("serve", model, "--port", 0, "--threads", 1, "--json", *options)
    given = environment(**variables)
    with subprocess.Popen(command, env=given, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def dense() -> Iterator[str]:
    with serving(MODEL) as url:
        yield url


@pytest.fixture(scope="session")
def subnet(artefact: Path, dense: str) -> Iterator[str]:
    """The subnet's server, with the dense model's to compare with."""
    with serving(artefact, "--compare", dense) as url:
        yield url


@dataclass
class Visit:
    """A page, and what it did: messages of the console, errors, addresses asked."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def watch(self) -> Visit:
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        return self

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def hosts(self) -> set[str]:
        return {urlsplit(url).netloc for url in self.asked}

    def sideways(self) -> int:
        """Pixels by which the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

    def shoot(self, name: str, whole: bool = True) -> None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png", full_page=whole)

    def accessibility(self) -> list[str]:
        """axe's findings that are serious or critical: rule, and the first place."""
        self.page.evaluate((TOOLS / "axe.min.js").read_text())
        found: dict[str, Any] = self.page.evaluate("tags => axe.run({runOnly: tags})", TAGS)
        assert len(found["passes"]) > 10  # it really looked
        return [
            f"{v['id']}: {v['nodes'][0]['html'][:200]} {v['nodes'][0]['failureSummary']}"
            for v in found["violations"]
            if v["impact"] in ("serious", "critical")
        ]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Playwright's Chromium, or the one that debian_chromium.sh unpacked."""
    unpacked = TOOLS / "usr" / "lib" / "chromium" / "chromium-headless-shell"
    options: dict[str, Any] = {"args": ["--no-sandbox"]}  # tests may run as root, and load our own pages only
    if unpacked.exists():
        libraries = TOOLS / "usr" / "lib" / "x86_64-linux-gnu"
        path = f"{libraries}:{libraries / 'pulseaudio'}"
        options |= {"executable_path": unpacked, "env": dict(os.environ) | {"LD_LIBRARY_PATH": path}}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**options)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """A window of its own; `width` and `scheme` of the test are its."""
    given = getattr(request.node, "callspec", None)
    asked = given.params if given else {}
    context = browser.new_context(
        viewport={"width": WIDTHS[asked.get("width", "desktop")], "height": 800},
        color_scheme=asked.get("scheme", "light"),
    )
    context.set_default_timeout(30_000)
    yield Visit(context.new_page()).watch()
    context.close()


@pytest.fixture(scope="session")
def plain_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model without its chat template."""
    copy = shutil.copytree(MODEL, tmp_path_factory.mktemp("plain") / "plain")
    (copy / "chat_template.jinja").unlink()
    return copy
