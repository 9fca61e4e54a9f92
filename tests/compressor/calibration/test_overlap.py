"""What two texts share: documents by their words, and windows of tokens."""

from __future__ import annotations

import torch

from lathe.compressor.calibration.overlap import shared_documents, shared_windows

LONG = "A document that is long enough to be one of only one text. "


def test_documents_are_equal_by_their_words() -> None:
    texts = {
        "a": [LONG + "first", LONG + "second", "Hello!"],
        "b": ["Hello!", LONG + "third"],
        "c": [LONG + "fourth", (LONG + "second").replace(" ", "\n"), LONG + "first"],
    }
    found = shared_documents(texts)
    said = "a and c share 2 documents: number 1 of a is number 3 of c"
    assert str(found) == f"{said} ('A document that is long enough to be one')"


def test_short_documents_and_repeated_ones_of_one_text_are_no_overlap() -> None:
    assert shared_documents({"a": [LONG, LONG, "Hello!"], "b": ["Hello!", LONG + "other"]}) is None


def test_windows_are_equal_token_by_token() -> None:
    windows = torch.arange(24).view(4, 6)
    found = shared_windows({"a": windows[:2], "b": windows[2:], "c": windows[[3, 1, 0]]})
    assert str(found) == "a and c share 2 windows: number 1 of a is number 3 of c"
    assert shared_windows({"a": windows[:2], "b": windows[2:]}) is None
