"""Text sources. Each is one registered function from argument to documents; the first that claims it wins."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from lathe.artefact.errors import UserError
from lathe.artefact.texts.files import kind, lines, read_text
from lathe.artefact.texts.rows import Row, format_of, suffixes
from lathe.compressor.calibration.documents import Reading

DOCUMENT_SEPARATOR = "<|doc|>"
_MAX_DATASET_ROWS = 20_000
_PROSE = (".txt", ".md")
_SHOWN = 5
"""Files that are named of those that a folder holds besides."""

TextSource = Callable[[str, Reading], list[str]]
_REGISTRY: list[tuple[Callable[[str], bool], TextSource]] = []


def text_source(claims: Callable[[str], bool]) -> Callable[[TextSource], TextSource]:
    """Registers a source for the arguments that `claims` accepts."""

    def decorate(source: TextSource) -> TextSource:
        _REGISTRY.append((claims, source))
        return source

    return decorate


def read_documents(argument: str, reading: Reading | None = None) -> list[str]:
    """Documents of a file, a folder or a data set; those without text are left out.

    Raises:
        UserError: nothing is there, it cannot be read, it holds no text, or a row of it is none.
    """
    reading = reading or Reading()
    found = _read(argument, reading)
    documents = [d for d in found if d.strip()]
    if len(documents) < len(found):
        reading.log.warn(
            f"{argument}: {len(found) - len(documents)} of {len(found)} documents are empty, left out"
        )
    return documents


def read_whole(argument: str, reading: Reading | None = None) -> list[str]:
    """All documents, empty ones too.

    Raises:
        UserError: as `read_documents`.
    """
    return _read(argument, reading or Reading())


def parts_of(argument: str) -> list[str]:
    """The texts of a list with commas; anything else is one part.

    Raises:
        UserError: a text is named twice: what is held out of it would be fitted on, too.
    """
    if not _is_list(argument):
        return [argument]
    named = _named(argument)
    places = [Path(part).resolve() for part in named]
    for at, place in enumerate(places):
        for other in range(len(places)):
            if other != at and place.is_relative_to(places[other]):
                first, second = sorted((at, other))
                raise UserError(
                    f"the list of texts {argument} has the same text twice, as {named[first]} and as "
                    f"{named[second]}",
                    "Name each once.",
                )
    return named


def _is_list(argument: str) -> bool:
    named = _named(argument)
    return "," in argument and not Path(argument).exists() and any(Path(part).exists() for part in named)


def _named(argument: str) -> list[str]:
    """Returns the parts between commas; an empty part is not the directory that a program was started in."""
    return [part for part in argument.split(",") if part]


def _read(argument: str, reading: Reading) -> list[str]:
    for claims, source in _REGISTRY:
        if claims(argument):
            documents = source(argument, reading)
            if any(d.strip() for d in documents):
                return documents
            raise UserError(f"the text {argument} is empty", "Give a file or folder with text in it.")
    raise UserError(f"there is no text {argument}", "Give a file, a folder or a data-set name.")


@text_source(lambda argument: Path(argument).is_file())
def from_file(argument: str, reading: Reading) -> list[str]:
    """A document of each row of JSON, JSON lines, CSV or Parquet; else prose, parted by `<|doc|>`."""
    path = Path(argument)
    form = format_of(path)
    if form:
        return list(reading.documents(form(path), path))
    text = read_text(path)
    if _is_json(text):
        raise UserError(
            f"{path} holds JSON, which would be read as prose",
            "Call it .json, or .jsonl if each line is a row.",
        )
    return text.replace("\r\n", "\n").replace("\r", "\n").split(DOCUMENT_SEPARATOR)


@text_source(_is_list)
def from_several(argument: str, reading: Reading) -> list[str]:
    """Files, folders and data sets, separated by commas, one after another."""
    return [document for part in parts_of(argument) for document in _read(part, reading)]


@text_source(lambda argument: Path(argument).is_dir())
def from_folder(argument: str, reading: Reading) -> list[str]:
    """Reads all prose (.txt, .md) and files of rows below a folder, in sorted order.

    It tells which files it passes over: others, and hidden ones.
    """
    folder = Path(argument)
    used: list[Path] = []
    others: list[Path] = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        (used if not hidden and kind(path) in (*_PROSE, *suffixes()) else others).append(path)
    if others:
        named = ", ".join(str(path.relative_to(folder)) for path in others[:_SHOWN])
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        reading.log.warn(f"{argument}: left out {named}{more}")
    if not used:
        raise UserError(
            f"the folder {argument} is empty"
            if not others
            else f"the folder {argument} holds no text, but {named}{more}",
            f"Text is in {', '.join((*_PROSE, *suffixes()))}.",
        )
    return [document for file in used for document in from_file(str(file), reading)]


@text_source(lambda argument: argument.count("/") <= 2 and not argument.startswith((".", "/", "~")))
def from_dataset(argument: str, reading: Reading) -> list[str]:
    """A hub data set, `name[:configuration[:split]]`; its rows as those of a file, by default of `train`."""
    if kind(Path(argument)) in (*_PROSE, *suffixes()):
        raise UserError(f"there is no file {argument}")
    return list(reading.documents(_dataset_rows(argument, reading), argument))


def _dataset_rows(argument: str, reading: Reading) -> Iterator[Row]:
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"`{argument}` is not a file or folder, and data sets need the `datasets` library",
            "Give a path, or: pip install 'lathe[datasets]'.",
        ) from None
    name, configuration, split, *_ = (*argument.split(":"), "", "")
    try:
        rows = datasets.load_dataset(name, configuration or None, split=split or "train", streaming=True)
        found = list(islice(rows, _MAX_DATASET_ROWS + 1))
    except Exception as error:
        raise UserError(f"cannot load the data set {argument}: {error}") from None
    if len(found) > _MAX_DATASET_ROWS:
        reading.log.warn(f"{argument}: only the first {_MAX_DATASET_ROWS:,} rows are read")
    for number, value in enumerate(found[:_MAX_DATASET_ROWS], 1):
        yield Row(value, f"row {number} of the data set {argument}")


def _is_json(text: str) -> bool:
    """Returns whether a text is a JSON object or list, or starts with a line that is an object."""
    start = text.lstrip()[:1]
    if start not in ("{", "["):
        return False
    first = next(lines(text))[1]
    for candidate in (first, text) if start == "{" else (text,):
        try:
            return isinstance(json.loads(candidate), dict | list)
        except (ValueError, RecursionError):
            continue
    return False
