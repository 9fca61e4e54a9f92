"""Large texts are read in parts from all over them; small ones whole."""

from __future__ import annotations

from pathlib import Path

import torch

from lathe.compressor.calibration import token_windows
from lathe.compressor.calibration.documents import ChatText
from lathe.compressor.calibration.excerpts import LEAST, excerpts
from lathe.compressor.calibration.tokens import read_calibration
from lathe.compressor.model.checkpoint import open_checkpoint
from support.tiny_server import save_checkpoint


def _words(count: int) -> str:
    return "".join(f"w{number} " for number in range(count))


def test_a_small_text_stays_as_it_is() -> None:
    documents = ["one", "two", _words(1000)]
    assert excerpts(documents, 100) == documents
    assert excerpts([], 100) == []


def test_parts_of_a_large_document_cover_it_evenly_and_share_no_word() -> None:
    text = _words(1_000_000)
    parts = excerpts([text], 100)
    numbers = [int(word[1:]) for part in parts for word in part.split()[:-1]]  # the last may be cut
    assert sum(map(len, parts)) <= LEAST
    assert sum(map(len, parts)) > LEAST // 2
    assert numbers == sorted(set(numbers))
    tenths = torch.tensor(numbers).div(100_000, rounding_mode="floor").bincount()
    assert len(tenths) == 10
    assert tenths.max() < 2 * tenths.min()


def test_more_is_read_where_more_tokens_are_wanted() -> None:
    text = _words(1_000_000)
    assert sum(map(len, excerpts([text], 50_000))) > 2 * LEAST


def test_short_documents_and_chats_stay_whole() -> None:
    documents = [f"document {number} " * 20 for number in range(20_000)]
    parts = excerpts(documents, 100)
    assert set(parts) <= set(documents)
    assert len(set(parts)) == len(parts)
    chats = [ChatText(f"chat {number} " * 10_000) for number in range(40)]
    chosen = excerpts(chats, 100)
    assert set(chosen) <= set(chats)
    assert len(set(chosen)) == len(chosen)
    assert all(isinstance(chat, ChatText) for chat in chosen)


def test_windows_of_a_large_text_are_enough_and_from_all_of_it(tmp_path: Path) -> None:
    source = open_checkpoint(str(save_checkpoint(tmp_path / "tiny")))
    file = tmp_path / "large.txt"
    file.write_text("".join(f"{number} is before {number + 1}. " for number in range(80_000)))
    found = read_calibration(source, str(file), tokens=32 * 140, window=32, seed=0)
    assert found.windows is not None
    assert found.windows.shape == (160, 32)
    assert len(found.windows.unique(dim=0)) == 160
    assert len(token_windows(source, str(file), 32)) > len(token_windows(source, str(file), 32, tokens=64))
