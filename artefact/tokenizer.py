"""A checkpoint's own tokenizer, as transformers loads it without running code that comes with a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lathe.artefact.errors import UserError
from lathe.artefact.library_errors import reason
from lathe.artefact.transformers_config import reference_config

_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "*.tiktoken",
    "vocab.json",
    "vocab.txt",
    "tekken.json",
    "*.model",
)
"""Any of which holds a vocabulary."""
_READERS = {".model": ("sentencepiece", "sentencepiece protobuf"), ".tiktoken": ("tiktoken", "tiktoken")}
"""What reads a vocabulary that is not in a tokenizer.json, and how to install it."""
_USER, _ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
_CHATS = ([_USER], [_USER, _ANSWER, _USER], [{"role": "system", "content": "c"}, _USER])


def has_tokenizer(directory: Path) -> bool:
    """Returns whether a model has files of a tokenizer."""
    return any(file for pattern in _FILES for file in directory.glob(pattern))


def open_tokenizer(directory: Path | str) -> Any:
    """Opens a model's tokenizer.

    Raises:
    UserError: it is missing, unreadable, or needs code of its own.
    """
    from transformers import AutoTokenizer

    config = reference_config(directory)
    try:
        return AutoTokenizer.from_pretrained(directory, config=config, trust_remote_code=False)
    except Exception as error:
        what, remedy = _refusal(Path(directory), error)
        raise UserError(f"cannot load the tokenizer of {directory}: {what}", remedy) from None


def check_own_code(directory: Path) -> None:
    """Refuses a tokenizer that transformers would not load without code of its own.

    Raises:
        UserError: it needs that.
    """
    if own_code(directory):
        open_tokenizer(directory)


def own_code(directory: Path) -> str | None:
    """The class that a tokenizer's own code defines, `module.Class`, where its config names one."""
    try:
        config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
        named = config.get("auto_map", {})
        named = named.get("AutoTokenizer") if isinstance(named, dict) else named
    except (OSError, ValueError, AttributeError):
        return None
    names = named if isinstance(named, list) else [named]
    return next((name for name in names if isinstance(name, str)), None)


def beyond(tokenizer: Any, vocab_size: int) -> list[str]:
    """Returns the tokens that text or the chat template uses but the model does not have.

    Every request with one of them is refused.
    """
    missing = {token: i for token, i in tokenizer.get_vocab().items() if i >= vocab_size}
    if not missing:
        return []
    template = str(tokenizer.chat_template or "")
    used = {token for token in missing if token in template}
    texts = [tokenizer("a", verbose=False)["input_ids"], [*chat_token_ids(tokenizer)]]
    named = {i: token for token, i in missing.items()}
    used |= {named.get(i, str(i)) for ids in texts for i in ids if i >= vocab_size}
    return sorted(used, key=lambda token: missing.get(token, 0))


def beyond_warning(tokens: Sequence[str], vocab_size: int) -> str:
    """Returns the warning about the tokens of `beyond`."""
    named = ", ".join(tokens[:5]) + (" ..." if len(tokens) > 5 else "")
    return (
        f"the tokenizer or its chat template uses {named}, which the model's vocabulary of {vocab_size:,} "
        "has no place for: requests with these tokens will be refused. Enlarge the embedding, or take the "
        "tokenizer that belongs to the model"
    )


def chat_token_ids(tokenizer: Any) -> set[int]:
    """Returns the tokens that the chat template writes around messages."""
    return {number for chat in _CHATS for number in _chat_ids(tokenizer, chat)}


def _chat_ids(tokenizer: Any, chat: Sequence[Mapping[str, str]]) -> list[int]:
    if not tokenizer.chat_template:
        return []
    try:
        text = tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=True)
    except Exception:  # a template may refuse a form of chat, in any way
        return []
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _refusal(directory: Path, error: Exception) -> tuple[str, str]:
    own = own_code(directory)
    if own and "trust_remote_code" in str(error):
        return (
            f"it has code of its own (`{own}`), which Lathe does not run",
            "Save it as a tokenizer.json with a class of transformers, and leave `auto_map` out of "
            "tokenizer_config.json.",
        )
    present = [file.name for pattern in _FILES for file in sorted(directory.glob(pattern))]
    if directory.is_dir() and not present:
        return (
            "there is no tokenizer.json, tokenizer.model or vocab.json",
            "Copy the tokenizer's files to it.",
        )
    for suffix, (library, install) in _READERS.items():
        name = next((name for name in present if name.endswith(suffix)), None)
        if name and "tokenizer.json" not in present and not find_spec(library):
            return (
                f"{name} is read by `{library}`, which is not installed",
                f"pip install {install}, or add the tokenizer.json.",
            )
    for file in map(directory.joinpath, ("tokenizer.json", "tokenizer_config.json")):
        if isinstance(error, ValueError) and file.is_file() and not _is_json(file):
            return f"{file.name} is not JSON: {reason(error)}", "Copy it again."
    return reason(error), ""


def _is_json(file: Path) -> bool:
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True
