"""A checkpoint with a cut vocabulary, in Lathe's cache: all later stages see a model with fewer rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lathe.artefact.atomic_files import staged_directory, sync_directory, write_json
from lathe.artefact.cache_dir import cache_root
from lathe.artefact.checkpoint_config import read_document
from lathe.artefact.disk_space import free_space
from lathe.artefact.errors import UserError
from lathe.artefact.manifest import read_json
from lathe.artefact.tokenizer import open_tokenizer
from lathe.compressor.calibration.documents import ReadingLog
from lathe.compressor.export.checkpoint import copy_companions
from lathe.compressor.model.checkpoint import Checkpoint, open_checkpoint
from lathe.compressor.model.checkpoint_fingerprint import weight_digests
from lathe.compressor.model.families import stored_name
from lathe.compressor.model.names import EMBEDDING, LM_HEAD
from lathe.compressor.model.safetensors_writer import Entry, write_shards
from lathe.compressor.vocabulary.refusal import refusal
from lathe.compressor.vocabulary.token_ids import ids_of, renumbered
from lathe.compressor.vocabulary.tokenizer_files import TokenizerFiles
from lathe.compressor.vocabulary.usage import Usage, usage

_VERSION = "1"
"""Of the cut: another one makes checkpoints anew."""
_CONFIGS = ("config.json", "generation_config.json")
_OTHER_BYTES = 2**26


@dataclass(frozen=True)
class CutVocabulary:
    """A model, and the same model with fewer tokens.

    Attributes:
        text: The text whose tokens are kept.
        whole: The model with all tokens.
        source: The model with the kept tokens.
        kept: [V] the old ids of the kept tokens, by their new ids.
    """

    text: str
    whole: Checkpoint
    source: Checkpoint
    kept: torch.Tensor

    @property
    def rows(self) -> tuple[int, int]:
        """The rows of the table of tokens before and after."""
        return self.whole.shape.vocab_size, self.source.shape.vocab_size

    @property
    def table_bytes(self) -> tuple[int, int]:
        """The bytes of embedding and head before and after, as the checkpoint stores them."""
        size = self.whole.dtype.itemsize
        return size * self.whole.shape.table_parameters, size * self.source.shape.table_parameters


def cut_vocabulary(
    whole: Checkpoint, text: str, log: ReadingLog, cache_dir: Path | None = None
) -> CutVocabulary:
    """Returns a model with only the tokens that a text uses and those that every text needs.

    The checkpoint is made on the first use and found again by the model's content and the kept tokens. One
    tensor at a time is in memory.

    Raises:
        UserError: The text cannot be read, the tokenizer cannot be cut, or there is no space.
    """
    files, tokenizer = TokenizerFiles.open(whole.path), open_tokenizer(whole.path)
    tokens = files.tokens
    seen = usage(tokenizer, text, log)
    used = seen.used | _configured(whole, set(tokens.values()))
    kept = sorted(files.needed(used))
    _check_rows(whole, tokens, kept)
    new = {old: number for number, old in enumerate(kept)}
    target = (cache_dir or cache_root()) / "vocabulary" / _key(whole, kept) / whole.path.name
    if not (target / "config.json").is_file():
        log.say(
            f"  vocabulary: {len(kept):,} of {whole.shape.vocab_size:,} tokens are kept for {text}; this "
            "model is written once and stays in Lathe's cache"
        )
        _check_space(target, whole, len(kept))
        with staged_directory(target, shared="config.json") as temporary:
            _write(temporary, whole, files, new)
            _check_tokenizer(temporary, seen, tokenizer, tokens, new)
            sync_directory(temporary)
    return CutVocabulary(text, whole, open_checkpoint(str(target)), torch.tensor(kept))


def _configured(whole: Checkpoint, known: set[int]) -> set[int]:
    """Returns the ids that config.json and generation_config.json name.

    Raises:
        UserError: The model has a row for one, and the tokenizer no token.
    """
    found = set()
    for file in _CONFIGS:
        for name, number in ids_of(read_json(whole.path / file, optional=True)):
            if not 0 <= number < whole.shape.vocab_size:
                continue
            if number not in known:
                raise refusal(
                    f"{name} of {whole.path / file} is {number}, which is no token of the tokenizer",
                    "Set it to the tokenizer's, or to null.",
                )
            found.add(number)
    return found


def _check_rows(whole: Checkpoint, tokens: Mapping[str, int], kept: Sequence[int]) -> None:
    """Checks that the model has a row for every kept token."""
    if kept[-1] >= whole.shape.vocab_size:
        named = next(token for token, number in tokens.items() if number == kept[-1])
        raise refusal(
            f"the tokenizer of {whole.path} has `{named}` as token {kept[-1]}, and the model "
            f"{whole.shape.vocab_size:,} rows",
            "Take the tokenizer that belongs to the model, or enlarge its embedding.",
        )


def _key(whole: Checkpoint, kept: Sequence[int]) -> str:
    """Returns a fingerprint of the weights, of all JSON files, and of what is kept."""
    digest = hashlib.sha256(f"{_VERSION} {json.dumps(weight_digests(whole), sort_keys=True)}".encode())
    for file in sorted(file for pattern in ("*.json", "*.jinja") for file in whole.path.glob(pattern)):
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    digest.update(json.dumps(kept).encode())
    return digest.hexdigest()[:16]


def _tables(whole: Checkpoint) -> set[str]:
    """Returns the names of the tensors that have a row for each token."""
    names = (f"{module}.{kind}" for module in (EMBEDDING, LM_HEAD) for kind in ("weight", "bias"))
    return {stored_name(whole.family, name) for name in names} & whole.index.keys()


def _entries(whole: Checkpoint, rows: int) -> dict[str, Entry]:
    """Returns all tensors as they are to be written."""
    tables = _tables(whole)
    return {
        name: Entry((rows, *entry.shape[1:]) if name in tables else entry.shape, entry.torch_dtype)
        for name, entry in whole.index.items()
    }


def _write(directory: Path, whole: Checkpoint, files: TokenizerFiles, new: Mapping[int, int]) -> None:
    """Writes weights, tokenizer, licence and configurations."""
    tables, rows = _tables(whole), torch.tensor([*new])

    def tensor(name: str) -> torch.Tensor:
        entry = whole.index[name]
        try:
            return entry.rows(rows) if name in tables else entry.read()
        except OSError as error:
            raise UserError(f"cannot read {entry.file}: {error.strerror or error}") from None

    copy_companions(whole.path, directory)
    files.write(directory, new)
    write_shards(directory, _entries(whole, len(new)), tensor)
    config, generation = (directory / name for name in _CONFIGS)
    if generation.is_file():
        write_json(generation, renumbered(read_json(generation), new))
    write_json(config, renumbered(read_document(whole.path), new) | {"vocab_size": len(new)})


def _check_tokenizer(
    directory: Path, seen: Usage, before: Any, tokens: Mapping[str, int], new: Mapping[int, int]
) -> None:
    """Checks the new tokenizer, as transformers reads it, against the old one.

    Raises:
        UserError: It has other ids than was planned, or splits the text otherwise.
    """
    after = open_tokenizer(directory)
    planned = {token: new[number] for token, number in tokens.items() if number in new}
    found = after.get_vocab()
    if found != planned:
        named = min(token for token, _ in found.items() ^ planned.items())
        raise refusal(
            f"transformers gives `{named}` another id than the smaller tokenizer.json of {directory.name}"
        )
    numbers = [-1] * (1 + max(max(before.get_vocab().values()), *new))
    for old, number in new.items():
        numbers[old] = number
    seen.check(before, after, numbers)


def _check_space(target: Path, whole: Checkpoint, rows: int) -> None:
    needed = sum(entry.bytes for entry in _entries(whole, rows).values()) + _OTHER_BYTES
    parent, free = free_space(target)
    if free < needed:
        raise UserError(
            f"{parent} has {free / 2**20:.0f} MiB free; {whole.name} with a cut vocabulary needs "
            f"{needed / 2**20:.0f} MiB",
            "Free some space, or set LATHE_CACHE to a folder on another disk.",
        )
