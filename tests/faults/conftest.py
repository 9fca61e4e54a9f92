"""One tiny artefact, and the figures of the whole run as a table and as build/bench/faults.json."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fault_rig import ENGINE, Figures

from lathe.artefact.manifest import write_manifest
from lathe.compressor.export.base import Export, exporters
from lathe.compressor.model.checkpoint import open_checkpoint
from support.tiny_server import NAME, save_artefact

BOOK = pytest.StashKey[Figures]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[BOOK] = Figures(config.rootpath / "build/bench/faults.json")


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> Figures:
    return pytestconfig.stash[BOOK]


@pytest.fixture(scope="session")
def artefact_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = save_artefact(tmp_path_factory.mktemp("artefact"))
    if ENGINE == "llamacpp":
        whole = Export.whole(open_checkpoint(str(directory.parents[2] / NAME)))
        exporters.get("gguf").write(directory, whole)
        shutil.rmtree(directory / "onnx")
        write_manifest(directory)
    return directory


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    book = config.stash.get(BOOK, None)
    if book is None or not book.rows:
        return
    terminalreporter.section("faults")
    for row in book.rows:
        mark = "held" if row["held"] else "BROKEN"
        terminalreporter.line(
            f"{mark:7}{row['fault']:22}{row['figure']:50}{row['value']!s:>12}  {row['expected']}"
        )
    terminalreporter.line(f"written to {book.path}")
