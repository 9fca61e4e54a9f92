"""Text sources. Each is one registered function from argument to documents; the first that claims it wins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from compressor.errors import UserError

DOCUMENT_SEPARATOR = "<|doc|>"
_MAX_DATASET_ROWS = 20_000
_TEXT_SUFFIXES = (".txt", ".md", ".jsonl")

TextSource = Callable[[str], list[str]]
_REGISTRY: list[tuple[Callable[[str], bool], TextSource]] = []


def text_source(claims: Callable[[str], bool]) -> Callable[[TextSource], TextSource]:
    """Register a source for the arguments that `claims` accepts."""

    def decorate(source: TextSource) -> TextSource:
        _REGISTRY.append((claims, source))
        return source

    return decorate


def read_documents(argument: str) -> list[str]:
    """Documents of a file, a folder or a data set; those without text are left out.

    Raises:
        UserError: nothing is there, it cannot be read, or it holds no text.
    """
    return [d for d in _read(argument) if d.strip()]


def read_whole(argument: str) -> str:
    """All documents, empty ones too, as one, with an empty line between: the text of published perplexities.

    Raises:
        UserError: as `read_documents`.
    """
    return "\n\n".join(_read(argument))


def parts_of(argument: str) -> list[str]:
    """The files and folders of a list with commas; anything else is one part."""
    return _named(argument) if _is_list(argument) else [argument]


def _is_list(argument: str) -> bool:
    return "," in argument and all(Path(p).exists() for p in _named(argument))


def _named(argument: str) -> list[str]:
    """Between commas; an empty part is not the directory that a program was started in."""
    return [part for part in argument.split(",") if part]


def _read(argument: str) -> list[str]:
    for claims, source in _REGISTRY:
        if claims(argument):
            documents = source(argument)
            if any(d.strip() for d in documents):
                return documents
            raise UserError(f"the text {argument} is empty", "Give a file or folder with plain text in it.")
    raise UserError(f"there is no text {argument}", "Give a file, a folder or a data-set name.")


@text_source(lambda argument: Path(argument).is_file())
def from_file(argument: str) -> list[str]:
    """One document per `<|doc|>` line, or per line of a .jsonl file with a `text` field."""
    path = Path(argument)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} as UTF-8 text: {error}") from None
    if path.suffix == ".jsonl":
        return list(_from_jsonl(path, text))
    return text.split(DOCUMENT_SEPARATOR)


@text_source(_is_list)
def from_several(argument: str) -> list[str]:
    """Files and folders, separated by commas, one after another."""
    return [document for part in parts_of(argument) for document in _read(part)]


@text_source(lambda argument: Path(argument).is_dir())
def from_folder(argument: str) -> list[str]:
    """All .txt, .md and .jsonl files below a folder, in sorted order."""
    files = sorted(p for p in Path(argument).rglob("*") if p.suffix in _TEXT_SUFFIXES and p.is_file())
    return [document for file in files for document in from_file(str(file))]


@text_source(lambda argument: argument.count("/") <= 2 and not argument.startswith((".", "/", "~")))
def from_dataset(argument: str) -> list[str]:
    """A hub data set, `name[:configuration[:split]]`; the `text` of its rows, by default of `train`."""
    if Path(argument).suffix in _TEXT_SUFFIXES:
        raise UserError(f"there is no file {argument}")
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
        return [row["text"] for row in islice(rows, _MAX_DATASET_ROWS)]
    except Exception as error:
        raise UserError(f"cannot load the data set {argument}: {error}") from None


def _from_jsonl(path: Path, text: str) -> Iterator[str]:
    import json

    for number, line in enumerate(filter(str.strip, text.splitlines()), 1):
        try:
            yield str(json.loads(line)["text"])
        except (ValueError, KeyError, TypeError):
            raise UserError(f'line {number} of {path} is not a JSON object with a "text" field') from None
