"""What is known of llama.cpp without it: the bytes of its KV cache, and how to install it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lathe.artefact.errors import UserError
from lathe.artefact.gguf.file import GgufModel
from lathe.artefact.llamacpp.cache_size import kv_bytes_per_token
from lathe.artefact.llamacpp.library import llama_cpp


def model(**metadata: object) -> GgufModel:
    given = {"block_count": 3, "embedding_length": 64, "attention.head_count": 4} | metadata
    named = {f"deci.{name.replace('__', '.')}": value for name, value in given.items() if value is not None}
    return GgufModel(Path("m.gguf"), (Path("m.gguf"),), {"general.architecture": "deci"} | named, {})


@pytest.mark.parametrize(
    ("metadata", "flash", "values"),
    [
        ({}, False, 2 * 3 * 4 * 16),
        ({"attention__head_count_kv": 2}, False, 2 * 3 * 2 * 16),
        ({"attention__head_count_kv": 2, "attention__key_length": 8}, True, 3 * 2 * (8 + 16)),
        ({"attention__head_count_kv": [1, 0, 2], "attention__head_count": [4, 0, 2]}, True, 2 * 3 * 16),
        ({"attention__head_count_kv": [1, 0, 2], "attention__head_count": [4, 0, 2]}, False, (3 + 6) * 16),
    ],
)
def test_bytes_of_a_token(metadata: dict[str, object], flash: bool, values: int) -> None:
    assert kv_bytes_per_token(model(**metadata), 2, flash=flash) == 2 * values


@pytest.mark.parametrize("heads", [None, "four", [], ["a"]])
def test_a_file_without_heads_is_refused(heads: object) -> None:
    with pytest.raises(UserError, match="m.gguf does not say its heads"):
        kv_bytes_per_token(model(**{"attention.head_count": heads}), 2, flash=True)


def test_without_llama_cpp_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    llama_cpp.cache_clear()
    with pytest.raises(UserError, match=r"llama.cpp is not installed") as caught:
        llama_cpp()
    assert "pip install 'lathe[llamacpp]'" in str(caught.value)
