"""The artefact's tokenizer: text to tokens, chats to tokens, tokens to the bytes they stand for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lathe.artefact.errors import UserError
from lathe.artefact.library_errors import reason
from lathe.artefact.tokenizer import beyond, beyond_warning, check_own_code
from lathe.serving.decoding.chat_template import ChatTemplate, Rendering, Scalar, TemplateError
from lathe.serving.decoding.control_tokens import ControlTokens, SpellingError

ABOUT_FILES = frozenset(
    {"vocab_file", "merges_file", "tokenizer_file", "name_or_path", "is_local", "local_files_only", "backend"}
)
"""Arguments that a tokenizer was created with and that `info` leaves out."""
ASSISTANT_ANSWERS = Rendering()


class Tokenizer:
    """A Hugging Face fast tokenizer with an exact map from tokens to bytes. Safe to share by threads."""

    def __init__(self, directory: Path, template_variables: Mapping[str, Scalar] | None = None) -> None:
        """Loads the tokenizer.

        Args:
            directory: the folder of its files.
            template_variables: variables of the chat template, unless a chat sets them.

        Raises:
            UserError: the files are missing, the decoder is of an unknown kind, or the template does not read
                one of the variables.
        """
        from transformers import PreTrainedTokenizerFast

        check_own_code(directory)
        try:
            self._hf = PreTrainedTokenizerFast.from_pretrained(directory, local_files_only=True)
        except Exception as error:
            raise UserError(f"cannot load the tokenizer in {directory}: {reason(error)}") from None
        self._fast = self._hf.backend_tokenizer
        self._fast.no_truncation()
        self._fast.no_padding()
        self._bytes_of = _token_bytes_table(self._fast)
        self._longest = max((len(piece) for piece in self._fast.get_vocab()), default=1)
        self.controls = ControlTokens(self._fast)
        self.template = ChatTemplate(self._hf, template_variables)
        self.has_chat_template = self.template.exists
        self.chat_template = self.template.source
        self.eos_token_id: int | None = self._hf.eos_token_id

    def encode(self, text: str, *, special: bool = True) -> np.ndarray:
        """Returns the tokens of a text, int64 [T]; `special`: with the special tokens around plain text."""
        return self._ids(text, special)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        how: Rendering = ASSISTANT_ANSWERS,
    ) -> np.ndarray:
        """Returns the tokens of a chat, int64 [T].

        Special tokens that messages, tools or variables spell are encoded as plain text.

        Raises:
            TemplateError: the template refuses the messages.
        """
        given = [list(messages), list(tools) if tools else None, dict(how.variables)]
        (messages, tools, variables), marks = self.controls.marked(given)
        text = self.template.render(messages, tools, replace(how, variables=variables))
        if marks is None:
            return self.encode(text, special=how.special)
        try:
            return self.controls.encode(text, marks, special=how.special)
        except SpellingError as error:
            raise TemplateError(str(error)) from None

    def render_chat(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> str:
        """Returns the text of a chat that waits for the assistant's answer.

        Raises:
            TemplateError: the template refuses the messages.
        """
        return self.template.render(messages, tools, ASSISTANT_ANSWERS)

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Returns the text of tokens; `special`: with special tokens."""
        return str(self._fast.decode(list(tokens), skip_special_tokens=not special))

    def info(self) -> dict[str, Any]:
        """Returns the settings of tokenizer_config.json, but for files; special tokens by their texts."""
        told = {name: value for name, value in self._hf.init_kwargs.items() if name not in ABOUT_FILES}
        named = {
            name: getattr(self._hf, name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")
        }
        told |= named | {
            "tokenizer_class": type(self._hf).__name__,
            "chat_template": self.chat_template or None,
        }
        return {name: _plain(value) for name, value in told.items()}

    def warning(self, vocab_size: int) -> str | None:
        """Returns a warning about tokens that a model with a vocabulary of this size lacks, if any."""
        missing = beyond(self._hf, vocab_size)
        return beyond_warning(missing, vocab_size) if missing else None

    def to_json(self) -> str:
        """Returns the whole tokenizer, as in tokenizer.json."""
        return str(self._fast.to_str())

    def _ids(self, text: str, special: bool) -> np.ndarray:
        """Encodes a batch of one: other threads run meanwhile, unlike with `encode`."""
        [encoded] = self._fast.encode_batch_fast([text], add_special_tokens=special)
        return np.array(encoded.ids, dtype=np.int64)

    def surely_longer_than(self, text: str, tokens: int) -> bool:
        """Returns whether `text` cannot fit into `tokens` tokens, without tokenizing it."""
        return len(text) > self._longest * tokens

    def token(self, name: str) -> int | None:
        """Returns the single token that is spelled so, if there is one."""
        found: int | None = self._fast.token_to_id(name)
        return found

    def token_bytes(self, token: int) -> bytes:
        """Returns the bytes a token adds to the text; none for special tokens and vocabulary padding."""
        return self._bytes_of.get(token, b"")

    def special_tokens(self, stops: Sequence[str], *, shown: bool) -> dict[int, str]:
        """Returns the special tokens, and their texts, that count in an answer which stops at `stops`.

        All of them count where they are `shown`.
        """
        return self.controls.texts if shown else self.controls.spelled_in("\n".join(stops))

    def display_bytes(self, token: int) -> bytes:
        """Returns the bytes that represent a token in log-probabilities: special tokens by their names."""
        return self._bytes_of.get(token) or str(self._fast.id_to_token(token) or "").encode()


def _plain(value: Any) -> Any:
    """Converts a value to JSON; an added token becomes its text."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return str(getattr(value, "content", value))


def _token_bytes_table(fast: Any) -> dict[int, bytes]:
    decoders = {decoder["type"]: decoder for decoder in _decoders(json.loads(fast.to_str())["decoder"])}
    if "ByteLevel" in decoders:
        alphabet = _byte_level_alphabet()
        table = {i: _byte_level(piece, alphabet) for piece, i in fast.get_vocab().items()}
    elif "ByteFallback" in decoders or "Metaspace" in decoders:
        table = {i: _metaspace(piece) for piece, i in fast.get_vocab().items()}
    else:
        raise UserError(
            f"the tokenizer decodes with {', '.join(decoders) or 'nothing'}, which is not supported",
            "Byte-level and sentencepiece tokenizers are.",
        )
    for i, added in fast.get_added_tokens_decoder().items():
        table[i] = b"" if added.special else added.content.encode()
    return table


def _decoders(decoder: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if decoder is not None and decoder["type"] == "Sequence":
        for part in decoder["decoders"]:
            yield from _decoders(part)
    elif decoder is not None:
        yield decoder


def _byte_level_alphabet() -> dict[str, int]:
    """Returns the characters that byte-level vocabularies write bytes with; printable ones are themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _byte_level(piece: str, alphabet: Mapping[str, int]) -> bytes:
    values = [alphabet.get(character) for character in piece]
    return piece.encode() if None in values else bytes(value for value in values if value is not None)


def _metaspace(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("\u2581", " ").encode()
