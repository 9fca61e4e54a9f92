"""Files of rows. Each format is one registered function from path to rows; suffixes count in any case."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lathe.artefact.errors import UserError
from lathe.artefact.texts.files import kind, lines, parse_json, problem, read_text

_WRAPPERS = ("data", "rows", "examples", "items", "records", "documents", "train", "validation", "test")
"""Names under which a JSON object may hold its list of rows."""
_MESSAGES = ({"role", "content"}, {"role", "tool_calls"}, {"from", "value"})
"""What a message has, by OpenAI and by ShareGPT."""
_OTHERS = {
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".rar", ".zst", ".lz4", ".br"), "is packed; unpack it"),
    **dict.fromkeys((".arrow", ".feather", ".orc", ".avro"), "is a binary table; write it as Parquet"),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "is a spreadsheet; write it as CSV"),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3"), "is a database; write its rows as JSONL"),
    **dict.fromkeys((".pdf", ".docx", ".doc", ".odt", ".epub", ".rtf"), "is a document; extract its text"),
    **dict.fromkeys(
        (".yaml", ".yml", ".toml", ".xml", ".html", ".htm", ".ipynb", ".json5"),
        "is markup, not prose; extract its text, or call the file .txt to read it as it is",
    ),
    **dict.fromkeys(
        (".pkl", ".pickle", ".npy", ".npz", ".pt", ".bin", ".safetensors", ".h5", ".tfrecord"),
        "is binary; write its text as JSONL",
    ),
}
"""What is certainly no plain text, and what to do with it."""


@dataclass(frozen=True)
class Row:
    """One row of a file: a JSON value, and what to call it in a message."""

    value: Any
    place: str


RowFormat = Callable[[Path], Iterator[Row]]
_FORMATS: dict[str, RowFormat] = {}


def row_format(*suffixes: str) -> Callable[[RowFormat], RowFormat]:
    """Registers a format for files with these suffixes."""

    def decorate(function: RowFormat) -> RowFormat:
        _FORMATS.update(dict.fromkeys(suffixes, function))
        return function

    return decorate


def format_of(path: Path) -> RowFormat | None:
    """Returns the reader of a file's rows; None for a file that may be prose.

    Raises:
        UserError: it is certainly neither.
    """
    if remedy := _OTHERS.get(kind(path)):
        raise UserError(f"{path} cannot be read as text: it {remedy}")
    return _FORMATS.get(kind(path))


def suffixes() -> tuple[str, ...]:
    """Returns the suffixes of all formats."""
    return tuple(_FORMATS)


@row_format(".jsonl", ".ndjson", ".jsonlines")
def from_json_lines(path: Path) -> Iterator[Row]:
    """A JSON value on every line."""
    return _json_lines(path, read_text(path))


@row_format(".json")
def from_json(path: Path) -> Iterator[Row]:
    """A list of rows, such a list under a usual name (`data`, `rows`, `train`), one row, or JSON lines."""
    text = read_text(path)
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return _json_lines(path, text)
        raise UserError(f"line {error.lineno} of {path} is not JSON: {problem(error)}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON that can be read: {error}") from None
    return _json_rows(path, document)


@row_format(".csv")
def from_csv(path: Path) -> Iterator[Row]:
    """Rows below a line with the names of columns, parted by commas."""
    return _table(path, ",")


@row_format(".tsv")
def from_tsv(path: Path) -> Iterator[Row]:
    """Reads rows like those of CSV, separated by tabs."""
    return _table(path, "\t")


@row_format(".parquet")
def from_parquet(path: Path) -> Iterator[Row]:
    """Rows of an Apache Parquet file; needs pyarrow."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError(
            f"{path} is Parquet, and `pyarrow`, which reads that, is not installed",
            "pip install 'lathe[datasets]', or write it as JSONL.",
        ) from None
    try:
        number = 0
        for batch in ParquetFile(path).iter_batches():
            for value in batch.to_pylist():
                number += 1
                yield Row(value, f"row {number} of {path}")
    except (ArrowException, OSError) as error:
        raise UserError(f"cannot read {path} as Parquet: {error}") from None


def _json_lines(path: Path, text: str) -> Iterator[Row]:
    for number, line in lines(text):
        place = f"line {number} of {path}"
        yield Row(parse_json(line, place), place)


def _json_rows(path: Path, document: Any) -> Iterator[Row]:
    if isinstance(document, dict):
        lists = [name for name in _WRAPPERS if isinstance(document.get(name), list)]
        if len(lists) == 1:
            where = f"`{lists[0]}` of {path}"
            yield from (Row(v, f"item {n} of {where}") for n, v in enumerate(document[lists[0]], 1))
            return
    if not isinstance(document, list) or is_chat(document):
        yield Row(document, str(path))
        return
    yield from (Row(value, f"item {n} of {path}") for n, value in enumerate(document, 1))


def is_chat(value: Any) -> bool:
    """Returns whether a value is a list of messages: one conversation, not rows."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(v, dict) and any(names <= v.keys() for names in _MESSAGES) for v in value)
    )


def _table(path: Path, delimiter: str) -> Iterator[Row]:
    text = read_text(path)
    limit = csv.field_size_limit(sys.maxsize)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        found = [(reader.line_num, fields) for fields in reader if fields]
    except csv.Error as error:
        raise UserError(
            f"line {reader.line_num} of {path} is not {kind(path)[1:].upper()}: {error}"
        ) from None
    finally:
        csv.field_size_limit(limit)
    names = [name.strip() for name in found[0][1]] if found else []
    for number, (line, fields) in enumerate(found[1:], 1):
        place = f"row {number} of {path} (to line {line})"
        if len(fields) != len(names):
            raise UserError(f"{place} has {len(fields)} fields, and the first line names {len(names)}")
        yield Row(dict(zip(names, fields, strict=True)), place)
