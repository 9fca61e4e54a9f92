"""Tiny models as GGUF files, in the types that weights have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Kind

from support.tiny_gguf import byte_level_tokens, write_gguf
from support.tiny_llama import dense_model
from support.tiny_server import save_tokenizer

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0")
TOKENS = 320


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file for each type, with a byte-level tokenizer that has a chat template."""
    directory = tmp_path_factory.mktemp("gguf")
    save_tokenizer(directory)
    tokens, found = byte_level_tokens(directory), {}
    for name in TYPES:
        model = dense_model(vocab_size=TOKENS, max_position_embeddings=512)
        found[name] = write_gguf(directory / f"tiny-{name}.gguf", model, Kind[name], tokens=tokens)
    return found


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATHE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield
