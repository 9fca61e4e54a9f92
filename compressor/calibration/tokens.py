"""Token windows: [windows, window_length] int64, the only form in which later stages see text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from compressor.calibration.selfgen import write_samples
from compressor.calibration.sources import parts_of, read_documents
from compressor.errors import UserError
from compressor.progress import Progress
from compressor.reference import reference_config
from compressor.room import Room
from compressor.source import Source
from compressor.workers import Workers

_HELDOUT_SHARE = 8
SELF = "self"


@dataclass(frozen=True)
class Calibration:
    """Windows to fit on, and windows kept apart to choose between fits and to report on.

    `origin` says where the text came from; it goes into the report.
    """

    fit: torch.Tensor
    heldout: torch.Tensor
    origin: str


def load_calibration(
    source: Source, argument: str, *, tokens: int, window: int, seed: int, progress: Progress,
    room: Room | None = None, workers: Workers | None = None,
) -> Calibration:  # fmt: skip
    """Windows from a file, folder, data set or `self`; one in eight is held out. Of several texts, listed
    with commas, each gives an equal share, or all that it has. room: for a model that writes text;
    workers: who has it write.

    Raises:
        UserError: no such text, or too little of it for two windows.
    """
    window = window_length(source, window)
    wanted = sum(heldout_windows(tokens, window))
    if argument == SELF:
        windows = write_samples(
            source, windows=wanted, length=window, seed=seed, progress=progress, room=room, workers=workers
        )
    else:
        texts = [token_windows(source, part, window) for part in parts_of(argument)]
        counts = fair_shares([len(t) for t in texts], wanted)
        windows = torch.cat([spread(t, n, seed) for t, n in zip(texts, counts, strict=True)])
    if len(windows) < 2:
        raise UserError(
            f"the calibration text {argument} gives {len(windows)} windows of {window} tokens, not two",
            "Give more text, or `self`.",
        )
    held = torch.arange(len(windows)) % _HELDOUT_SHARE == _HELDOUT_SHARE - 1
    if not held.any():
        held[-1] = True
    return Calibration(windows[~held].contiguous(), windows[held].contiguous(), argument)


def heldout_windows(tokens: int, window: int) -> tuple[int, int]:
    """How many windows are fitted on for so many tokens, and how many are held out."""
    fitted = max(2, -(-tokens // window))
    return fitted, -(-fitted // (_HELDOUT_SHARE - 1))


def window_length(source: Source, window: int) -> int:
    """`window`, or the model's positions where it has fewer."""
    return min(window, int(source.config.get("max_position_embeddings") or window))


def token_windows(source: Source, argument: str, window: int) -> torch.Tensor:
    """All full windows [n, window] of a text, documents joined as the tokenizer marks them."""
    values = pack_windows(load_tokenizer(source), argument, window)
    if len(values) and int(values.max()) >= source.shape.vocab_size:
        raise UserError(
            f"the tokenizer of {source.path} gives ids beyond the model's {source.shape.vocab_size} tokens"
        )
    return values


def pack_windows(tokenizer: Any, argument: str, window: int) -> torch.Tensor:
    """As `token_windows`, with any tokenizer and its ids unchecked."""
    ids: list[int] = []
    for document in read_documents(argument):
        ids += tokenizer(document, verbose=False)["input_ids"]
    count = len(ids) // window
    return torch.tensor(ids[: count * window], dtype=torch.int64).view(count, window)


def load_tokenizer(source: Source) -> Any:
    """The checkpoint's own tokenizer.

    Raises:
        UserError: it is missing or unreadable.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source.path, config=reference_config(source.path))
    except Exception as error:
        raise UserError(f"cannot load the tokenizer of {source.path}: {error}") from None


def spread(windows: torch.Tensor, wanted: int, seed: int) -> torch.Tensor:
    """`wanted` windows evenly over the whole text, one of each stretch; the seed says which."""
    if len(windows) <= wanted:
        return windows
    drawn = torch.rand(wanted, generator=torch.Generator().manual_seed(seed))
    return windows[((torch.arange(wanted) + drawn) * (len(windows) / wanted)).long()]


def fair_shares(sizes: list[int], wanted: int) -> list[int]:
    """`wanted` split evenly, none above its size; what the small ones lack the others give."""
    shares = [0] * len(sizes)
    for done, index in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        shares[index] = min(sizes[index], (wanted - sum(shares)) // (len(sizes) - done))
    return shares
