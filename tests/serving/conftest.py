"""The tiny artefact, and one server for all tests that leave it as they found it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from support.tiny_server import Running, running, save_artefact


@pytest.fixture(scope="session")
def artefact_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_artefact(tmp_path_factory.mktemp("artefact"))


@pytest.fixture(scope="session")
def server(artefact_dir: Path) -> Iterator[Running]:
    with running(artefact_dir) as server:
        yield server


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
        yield client
