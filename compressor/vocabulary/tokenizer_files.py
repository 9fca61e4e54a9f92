"""The tokenizer's files of a model, and the same files with fewer tokens under new ids."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lathe.artefact.atomic_files import write_json
from lathe.artefact.manifest import read_json
from lathe.artefact.tokenizer import own_code
from lathe.compressor.vocabulary.kinds import kind_of
from lathe.compressor.vocabulary.kinds.base import Kind
from lathe.compressor.vocabulary.refusal import refusal

_FILE, _CONFIG, _SPECIAL, _ADDED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_OLDER = ("vocab.json", "vocab.txt", "merges.txt", "*.model", "*.tiktoken", "tekken.json")
"""Files that hold the whole vocabulary once more, and that no tokenizer needs beside a tokenizer.json."""
_PLACEHOLDER = re.compile(r"[<\[].*(unused|reserved).*\d.*[>\]]", re.IGNORECASE)
"""Added tokens that stand for nothing, such as `<unused12>` and `<|reserved_special_token_7|>`."""
_LISTS = ("additional_special_tokens", "extra_special_tokens")
_PROCESSORS = ("TemplateProcessing", "BertProcessing", "RobertaProcessing", "ByteLevel", "Sequence")


@dataclass(frozen=True)
class TokenizerFiles:
    """The tokenizer's files in a checkpoint's directory.

    Attributes:
        directory: The directory.
        document: The content of tokenizer.json.
    """

    directory: Path
    document: dict[str, Any]

    @classmethod
    def open(cls, directory: Path) -> TokenizerFiles:
        """Reads tokenizer.json.

        Raises:
            UserError: There is none, or the tokenizer cannot be cut.
        """
        if own := own_code(directory):
            raise refusal(f"the tokenizer of {directory} has code of its own (`{own}`)")
        if not (directory / _FILE).is_file():
            raise refusal(
                f"{directory} has no tokenizer.json",
                "Save one with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR).",
            )
        found = cls(directory, read_json(directory / _FILE))
        for name in found._processors(found.document.get("post_processor")):
            if name not in _PROCESSORS:
                raise refusal(f"{directory / _FILE} has a post-processor of an unknown type, `{name}`")
        return found

    @cached_property
    def kind(self) -> Kind:
        """The model, which does the splitting."""
        return kind_of(self.document.get("model") or {}, str(self.directory / _FILE))

    @cached_property
    def added(self) -> dict[str, int]:
        """The ids of added tokens, which are found in a text before it is split."""
        return {token["content"]: token["id"] for token in self.document.get("added_tokens") or ()}

    @property
    def tokens(self) -> dict[str, int]:
        """The ids of all tokens."""
        return {**self.kind.tokens, **self.added}

    def needed(self, used: Iterable[int]) -> set[int]:
        """Returns the ids that stay: those used, added tokens but for placeholders, and what the kind needs.

        Placeholders such as `<unused12>` stay only where they are used.
        """
        used = set(used)
        added = {number for token, number in self.added.items() if not _PLACEHOLDER.fullmatch(token)}
        processed = set(_processor_ids(self.document.get("post_processor")))
        padding = self.document.get("padding") or {}
        filled = {padding["pad_id"]} if "pad_id" in padding else set()
        kept = used | added | processed | filled | self._named()
        kept |= self.kind.base()
        return kept | self.kind.parts(kept)

    def _named(self) -> set[int]:
        """Returns the ids of the tokens that tokenizer_config.json gives a role, such as `pad_token`."""
        settings = read_json(self.directory / _CONFIG, optional=True)
        roles = {_content(value) for name, value in settings.items() if name.endswith("_token")}
        return {number for token, number in self.tokens.items() if token in roles}

    def write(self, directory: Path, new: Mapping[int, int]) -> None:
        """Writes the files with the kept tokens only over those in a directory, their new ids by the old."""
        for pattern in _OLDER:
            for file in directory.glob(pattern):
                file.unlink()
        write_json(directory / _FILE, self._cut(new))
        gone = {token for token, number in self.tokens.items() if number not in new}
        for name, change in ((_CONFIG, _settings), (_SPECIAL, _settings), (_ADDED, _added)):
            if (directory / name).is_file():
                write_json(directory / name, change(read_json(directory / name), new, gone))

    def _cut(self, new: Mapping[int, int]) -> dict[str, Any]:
        """Returns the new tokenizer.json."""
        document = self.document
        added = [
            {**token, "id": new[token["id"]]}
            for token in document.get("added_tokens") or ()
            if token["id"] in new
        ]
        padding = document.get("padding")
        if padding and "pad_id" in padding:
            padding = {**padding, "pad_id": new[padding["pad_id"]]}
        return {
            **document,
            "padding": padding,
            "added_tokens": added,
            "post_processor": _processor(document.get("post_processor"), new),
            "model": self.kind.cut(new),
        }

    def _processors(self, processor: Any) -> list[str]:
        """Returns the types of a post-processor and of those that it consists of."""
        if not processor:
            return []
        inner = processor.get("processors", ())
        return [processor["type"], *(name for part in inner for name in self._processors(part))]


def _processor_ids(processor: Any) -> Iterable[int]:
    """Yields the ids of the tokens that a post-processor adds."""
    if processor:
        for token in (processor.get("special_tokens") or {}).values():
            yield from token["ids"]
        yield from (processor[role][1] for role in ("sep", "cls") if role in processor)
        for part in processor.get("processors", ()):
            yield from _processor_ids(part)


def _processor(processor: Any, new: Mapping[int, int]) -> Any:
    """Returns a post-processor with new ids."""
    if not processor:
        return processor
    found = dict(processor)
    if "special_tokens" in found:
        found["special_tokens"] = {
            name: {**token, "ids": [new[number] for number in token["ids"]]}
            for name, token in found["special_tokens"].items()
        }
    for role in ("sep", "cls"):
        if role in found:
            found[role] = [found[role][0], new[found[role][1]]]
    if "processors" in found:
        found["processors"] = [_processor(part, new) for part in found["processors"]]
    return found


def _settings(document: Mapping[str, Any], new: Mapping[int, int], gone: set[str]) -> dict[str, Any]:
    """Returns tokenizer_config.json or special_tokens_map.json without tokens that are gone."""
    found = dict(document)
    if isinstance(decoder := found.get("added_tokens_decoder"), dict):
        found["added_tokens_decoder"] = {
            str(new[int(number)]): token for number, token in decoder.items() if int(number) in new
        }
    for name in _LISTS:
        value = found.get(name)
        if isinstance(value, list):
            found[name] = [token for token in value if _content(token) not in gone]
        elif isinstance(value, dict):
            found[name] = {key: token for key, token in value.items() if _content(token) not in gone}
    return found


def _added(document: Mapping[str, Any], new: Mapping[int, int], _gone: set[str]) -> dict[str, Any]:
    """Returns added_tokens.json with new ids."""
    return {token: new[number] for token, number in document.items() if number in new}


def _content(token: Any) -> str | None:
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None
