"""Token windows: [windows, window_length] int64, the only form in which later stages see text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from lathe.artefact.errors import UserError
from lathe.artefact.tokenizer import open_tokenizer
from lathe.compressor.calibration.amount import Amount, Part, fair_shares, held_out, heldout_windows
from lathe.compressor.calibration.chat import reading, token_ids
from lathe.compressor.calibration.documents import ReadingLog
from lathe.compressor.calibration.excerpts import excerpts
from lathe.compressor.calibration.selfgen import write_samples
from lathe.compressor.calibration.sources import parts_of, read_documents
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.compute.progress import Progress
from lathe.compressor.compute.workers import Workers
from lathe.compressor.model.checkpoint import Checkpoint

SELF = "self"


@dataclass(frozen=True)
class Calibration:
    """Windows to fit on, and windows kept apart to choose between fits and to report on.

    `origin` says where the text came from; it goes into the report.
    """

    fit: torch.Tensor
    heldout: torch.Tensor
    origin: str


@dataclass(frozen=True)
class CalibrationText:
    """The calibration text of a run, by the name that it was asked for.

    `windows` are [n, T] tokens of a text; None if the model is to write it.
    """

    name: str
    amount: Amount
    windows: torch.Tensor | None = None

    def to_json(self) -> dict[str, Any]:
        return {"text": self.name, **self.amount.to_json()}


UNREAD = CalibrationText(SELF, Amount(0, 0, ()))


def read_calibration(
    source: Checkpoint, argument: str, *, tokens: int, window: int, seed: int, log: ReadingLog | None = None
) -> CalibrationText:
    """Returns the windows of a file, folder or data set, or how many `self` will write.

    Of several texts, listed with commas, each gives an equal share, or everything that it has.

    Raises:
        UserError: there is no such text, or it cannot be read.
    """
    window = window_length(source, window)
    wanted = sum(heldout_windows(tokens, window))
    if argument == SELF:
        return CalibrationText(SELF, Amount(tokens, window, (Part(SELF, wanted, wanted),)))
    names = parts_of(argument)
    texts = [token_windows(source, name, window, log, tokens=wanted * window) for name in names]
    counts = fair_shares([len(t) for t in texts], wanted)
    windows = torch.cat([spread(t, n, seed) for t, n in zip(texts, counts, strict=True)])
    parts = (Part(name, len(t), n) for name, t, n in zip(names, texts, counts, strict=True))
    return CalibrationText(argument, Amount(tokens, window, tuple(parts)), windows)


def load_calibration(
    source: Checkpoint,
    text: CalibrationText,
    *,
    seed: int,
    progress: Progress,
    store: ArrayStore | None = None,
    workers: Workers | None = None,
) -> Calibration:
    """Returns the windows of a text, or lets the model write them; one in eight is held out.

    Args:
        source: The model.
        text: The text, as `read_calibration` returns it.
        seed: The seed of what the model writes.
        progress: Is told how far the model is.
        store: Holds the hidden states of a model that writes.
        workers: The workers that let the model write.

    Raises:
        UserError: there is too little text for two windows.
    """
    windows, amount = text.windows, text.amount
    if windows is None:
        windows = write_samples(
            source,
            windows=amount.windows,
            length=amount.window,
            seed=seed,
            progress=progress,
            store=store,
            workers=workers,
        )
    if len(windows) < 2:
        raise UserError(
            f"the calibration text {text.name} gives {len(windows)} windows of {amount.window} tokens, "
            "not two",
            "Give more text, or `self`.",
        )
    held = held_out(len(windows))
    return Calibration(windows[~held].contiguous(), windows[held].contiguous(), text.name)


def window_length(source: Checkpoint, window: int) -> int:
    """Returns `window`, or the model's longest context if that is shorter."""
    return min(window, int(source.config.get("max_position_embeddings") or window))


def token_windows(
    source: Checkpoint, argument: str, window: int, log: ReadingLog | None = None, tokens: int | None = None
) -> torch.Tensor:
    """Returns all full windows [n, window] of a text, with documents joined as the tokenizer marks them.

    Args:
        source: The model.
        argument: A file, folder or data set.
        window: The tokens of a window.
        log: Is told what was read.
        tokens: How many are wanted; of a much larger text only `excerpts` are read.

    Raises:
        UserError: there is no such text, or the tokenizer does not belong to the model.
    """
    tokenizer, ids = load_tokenizer(source), list[int]()
    documents = read_documents(argument, reading(tokenizer, log))
    for document in documents if tokens is None else excerpts(documents, tokens):
        ids += token_ids(tokenizer, document)
    count = len(ids) // window
    values = torch.tensor(ids[: count * window], dtype=torch.int64).view(count, window)
    if len(values) and int(values.max()) >= source.shape.vocab_size:
        raise UserError(
            f"the tokenizer of {source.path} gives {argument} ids beyond the model's "
            f"{source.shape.vocab_size} tokens",
            "Take the tokenizer that belongs to the model, or enlarge its embedding.",
        )
    return values


def load_tokenizer(source: Checkpoint) -> Any:
    """Loads the checkpoint's own tokenizer.

    Raises:
        UserError: it is missing or unreadable.
    """
    return open_tokenizer(source.path)


def cut(windows: torch.Tensor, length: int) -> torch.Tensor:
    """Returns windows cut into shorter ones; what is left of each at its end is lost."""
    length = min(length, windows.shape[1])
    return windows.unfold(1, length, length).reshape(-1, length)


def evenly_spaced(windows: torch.Tensor, most: int) -> torch.Tensor:
    """Returns at most so many windows, from the first to the last at even steps."""
    return windows[torch.linspace(0, len(windows) - 1, min(len(windows), most)).round().long()]


def spread(windows: torch.Tensor, wanted: int, seed: int) -> torch.Tensor:
    """Returns `wanted` windows spread evenly over the text, one of each stretch, chosen by the seed."""
    if len(windows) <= wanted:
        return windows
    drawn = torch.rand(wanted, generator=torch.Generator().manual_seed(seed))
    return windows[((torch.arange(wanted) + drawn) * (len(windows) / wanted)).long()]
