"""The token ids in a model's configuration files, and the same files with other ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_SUFFIXES = ("_token_id", "_token_ids")
_LISTS = (
    "suppress_tokens",
    "begin_suppress_tokens",
    "bad_words_ids",
    "force_words_ids",
)
"""Settings of generation with ids, in lists of lists."""
_PAIRED = {"forced_decoder_ids": 1, "sequence_bias": 0}
"""Lists of pairs of which one is ids, and which one."""


def ids_of(document: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yields the token ids of a config.json or generation_config.json, each after its setting's name."""
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from ids_of(value)
        elif _holds_ids(name):
            yield from ((name, number) for number in _numbers(_ids_alone(name, value)))


def renumbered(document: Mapping[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    """Returns the document with new ids; one that is no token's becomes null, and is left out of a list."""
    return {name: _renumbered(name, value, new) for name, value in document.items()}


def _renumbered(name: str, value: Any, new: Mapping[int, int]) -> Any:
    if isinstance(value, Mapping):
        return renumbered(value, new)
    if not _holds_ids(name):
        return value
    if name in _PAIRED and value:
        at = _PAIRED[name]
        return [[_mapped(part, new) if i == at else part for i, part in enumerate(pair)] for pair in value]
    return _mapped(value, new)


def _holds_ids(name: str) -> bool:
    return name in _LISTS or name in _PAIRED or name.endswith(_SUFFIXES)


def _ids_alone(name: str, value: Any) -> Any:
    return [pair[_PAIRED[name]] for pair in value] if name in _PAIRED and value else value


def _numbers(value: Any) -> Iterator[int]:
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif type(value) is int:
        yield value


def _mapped(value: Any, new: Mapping[int, int]) -> Any:
    if isinstance(value, list):
        return [found for item in value if (found := _mapped(item, new)) is not None]
    return new.get(value) if type(value) is int else value
