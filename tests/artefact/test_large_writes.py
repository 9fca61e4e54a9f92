"""What a writer collects reaches the file in large, aligned pieces, and unchanged."""

import io
from pathlib import Path

import numpy as np

from lathe.artefact.large_writes import PIECE, LargeWrites


class _Recorder(io.BytesIO):
    """Notes place and size of each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[tuple[int, int]] = []

    def write(self, content) -> int:
        self.writes.append((self.tell(), len(content)))
        return super().write(content)


def test_pieces_begin_at_multiples_and_hold_every_byte() -> None:
    file, random = _Recorder(), np.random.default_rng(0)
    header = b"header"
    file.write(header)
    pieces, expected = LargeWrites(file), bytearray(header)
    for size in (1, 70_000, 3 * PIECE + 5, 0, PIECE, 12, 2 * PIECE - 7, 40_001):
        content = random.integers(0, 256, size, dtype=np.uint8)
        assert pieces.tell() == len(expected)
        assert pieces.write(content.data) == size
        expected += content.tobytes()
    pieces.flush()
    assert file.getvalue() == expected
    inner = [(place, size) for place, size in file.writes[1:] if size]
    assert inner[0] == (len(header), PIECE - len(header))
    assert all(place % PIECE == 0 and size % PIECE == 0 for place, size in inner[1:-1])
    assert len(inner) < 10


def test_matrices_are_taken_as_they_are(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    with (tmp_path / "file").open("wb") as file:
        pieces = LargeWrites(file)
        assert pieces.write(values.data) == 24
        pieces.flush()
    assert (tmp_path / "file").read_bytes() == values.tobytes()
