"""The texts of the domains of a family, read and compared before a weight is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest

import torch

from lathe.artefact.errors import UserError
from lathe.compressor.calibration.amount import Amount, Part, held_out
from lathe.compressor.calibration.chat import reading
from lathe.compressor.calibration.documents import ReadingLog
from lathe.compressor.calibration.overlap import Shared, shared_documents, shared_windows
from lathe.compressor.calibration.sources import parts_of, read_documents
from lathe.compressor.calibration.tokens import CalibrationText, load_tokenizer, read_calibration
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.pipeline.domains import Domain
from lathe.compressor.pipeline.option_values import WINDOW
from lathe.compressor.pipeline.options import CompressOptions

_LEAST = 3
"""Windows of a domain: two to fit on and to train the router with, and one to judge by."""


def read_domains(options: CompressOptions, source: Checkpoint, log: ReadingLog) -> dict[str, CalibrationText]:
    """Returns the text of each domain by its name.

    Raises:
        UserError: one has no text or too little, or two have the same.
    """
    domains = options.domains
    _refuse(_shared_documents(domains, source))
    texts = {domain.name: _read(options, source, domain, log) for domain in domains}
    _refuse(shared_windows({name: text.windows for name, text in texts.items() if text.windows is not None}))
    return texts


def text_of_all(texts: Mapping[str, CalibrationText]) -> CalibrationText:
    """Returns one text of the windows of all domains.

    What is held out of a domain is not fitted on here, either.
    """
    apart, fitted = [], []
    for text in texts.values():
        assert text.windows is not None
        held = held_out(len(text.windows))
        apart.append(text.windows[held])
        fitted.append(text.windows[~held])
    held_windows, fit_windows = _in_turn(apart), _in_turn(fitted)
    count = len(held_windows) + len(fit_windows)
    while int(held_out(count).sum()) < len(held_windows):
        held_windows = held_windows[: int(held_out(count).sum())]
        count = len(held_windows) + len(fit_windows)
    held, rows = held_out(count), torch.stack([*held_windows, *fit_windows])
    windows = torch.empty_like(rows)
    windows[torch.cat([torch.nonzero(held)[:, 0], torch.nonzero(~held)[:, 0]])] = rows
    amounts = [text.amount for text in texts.values()]
    parts = [Part(name, text.amount.windows, text.amount.windows) for name, text in texts.items()]
    amount = Amount(sum(amount.asked for amount in amounts), amounts[0].window, tuple(parts))
    return CalibrationText(", ".join(texts), amount, windows)


def _in_turn(texts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Returns the windows of several texts, one of each after the other."""
    return [window for row in zip_longest(*texts) for window in row if window is not None]


def _shared_documents(domains: Sequence[Domain], source: Checkpoint) -> Shared | None:
    how = reading(load_tokenizer(source))
    documents = {}
    for domain in domains:
        with _named(domain):
            documents[domain.name] = [
                document for part in parts_of(domain.text) for document in read_documents(part, how)
            ]
    return shared_documents(documents)


def _read(options: CompressOptions, source: Checkpoint, domain: Domain, log: ReadingLog) -> CalibrationText:
    with _named(domain):
        text = read_calibration(
            source, domain.text, tokens=options.calibration_tokens, window=WINDOW, seed=options.seed, log=log
        )
    if text.amount.windows < _LEAST:
        raise UserError(
            f"the domain {domain.name} has too little text: {domain.text} fills {text.amount.windows} of the "
            f"{_LEAST} windows of {text.amount.window} tokens that are needed",
            "Give it more text, or leave it out.",
        )
    for line in text.amount.shortages(domain.text, source.shape.widest_output_projection):
        log.warn(line)
    return text


@contextmanager
def _named(domain: Domain) -> Iterator[None]:
    """Lets what is wrong with a text say whose it is."""
    try:
        yield
    except UserError as error:
        raise UserError(f"the domain {domain.name}: {error}") from None


def _refuse(shared: Shared | None) -> None:
    """Refuses texts that share something.

    Raises:
        UserError: they do.
    """
    if shared:
        raise UserError(
            f"the domains {shared}", "Leave them out of one: a subnet would be judged by the other's text."
        )
