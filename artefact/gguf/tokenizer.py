"""The tokenizer of a GGUF model, as transformers saves one."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing

from lathe.artefact.errors import UserError
from lathe.artefact.gguf.file import TOKENS, GgufModel
from lathe.artefact.gguf.header import DAMAGED
from lathe.artefact.gguf.pre_tokenizers import SPLITTINGS
from lathe.artefact.tokenizer import open_tokenizer

_SPECIAL = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
SPACE = "\u2581"
"""What SentencePiece writes for a space."""
_GEMMA = ("gemma2", "gemma3")
PROBE = "In 2024, 12345.67 dollars; it's WE'LL  do\n\n\tna\u00efve cafe\u0301 \u4e16\u754c \U0001f642!!"
"""A text that ways of splitting differ on."""
_Merges = list[tuple[str, str]]


class TokenKind(IntEnum):
    """The kinds of tokens by their numbers in GGUF."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def build_tokenizer(model: GgufModel) -> Any:
    """Returns the tokenizer, with the chat template, as transformers has it.

    Raises:
        UserError: Its kind is unknown, or what the file says of it is incomplete.
    """
    from transformers import PreTrainedTokenizerFast

    tokens = model.items(TOKENS, str, required=True) or []
    special = {role: _special(model, tokens, key) for role, key in _SPECIAL.items()}
    backend = _backend(model, tokens)
    control, own = (_of_kind(model, tokens, kind) for kind in (TokenKind.CONTROL, TokenKind.USER_DEFINED))
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    known = [token for token in own if backend.token_to_id(token) is not None]
    backend.add_tokens([AddedToken(token, normalized=False) for token in known])
    backend.post_processor = _post_processor(model, tokens, special)
    found = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        **{role: token for role, token in special.items() if token is not None},
    )
    found.chat_template = model.get("tokenizer.chat_template", str)
    return found


def save_tokenizer(model: GgufModel, directory: Path) -> None:
    """Writes the tokenizer's files beside config.json.

    Raises:
        UserError: As `build_tokenizer`; or transformers loads another tokenizer for the model type, as it
            does for `qwen2`.
    """
    built = build_tokenizer(model)
    built.save_pretrained(directory)
    if open_tokenizer(directory)(PROBE)["input_ids"] != built(PROBE)["input_ids"]:
        asked = model.metadata.get("tokenizer.ggml.pre")
        raise UserError(
            f"transformers splits texts for the architecture `{model.architecture}` in its own way, and "
            f"{model.path} asks for another (`tokenizer.ggml.pre`: {asked})",
            "Compress the model's Hugging Face checkpoint.",
        )


def check_tokenizer(model: GgufModel) -> None:
    """Checks what can be seen of a tokenizer without building it.

    Raises:
        UserError: Its kind is unknown, or a list has another length than the vocabulary.
    """
    tokens = model.items(TOKENS, str, required=True) or []
    kind, pre = model.required("tokenizer.ggml.model", str), model.get("tokenizer.ggml.pre", str)
    if kind not in ("gpt2", "llama"):
        raise UserError(
            f"{model.path} has a tokenizer of the kind `{kind}`, which Lathe does not read",
            "It reads `gpt2` (byte-level BPE) and `llama` (SentencePiece BPE).",
        )
    if kind == "gpt2" and pre not in SPLITTINGS:
        raise UserError(
            f"{model.path} splits texts in a way that Lathe does not know (`tokenizer.ggml.pre`: {pre})",
            f"It knows: {', '.join(sorted(SPLITTINGS))}.",
        )
    if kind == "gpt2" and not all(" " in merge for merge in _merges(model)):
        raise UserError(f"{model.path} has merges that are not two tokens", DAMAGED)
    if len(set(tokens)) != len(tokens):
        raise UserError(f"{model.path} has tokens that occur twice", DAMAGED)
    for key, item in (("token_type", int), ("scores", float)):
        given = model.items(f"tokenizer.ggml.{key}", item, required=kind == "llama" and key == "scores")
        if given is not None and len(given) != len(tokens):
            raise UserError(f"{model.path} has {len(tokens):,} tokens and {len(given):,} {key}", DAMAGED)
    model.get("tokenizer.chat_template", str)
    for key in ("add_bos_token", "add_eos_token", "add_space_prefix"):
        model.get(f"tokenizer.ggml.{key}", bool)


def _merges(model: GgufModel) -> list[str]:
    return model.items("tokenizer.ggml.merges", str, required=True) or []


def _backend(model: GgufModel, tokens: Sequence[str]) -> Tokenizer:
    if model.required("tokenizer.ggml.model", str) == "gpt2":
        return _byte_level(model, tokens)
    if model.architecture in _GEMMA:
        return _gemma(model, tokens)
    return _sentencepiece(model, tokens)


def _byte_level(model: GgufModel, tokens: Sequence[str]) -> Tokenizer:
    splitting = SPLITTINGS[model.required("tokenizer.ggml.pre", str)]
    merges = [_pair(merge) for merge in _merges(model)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    found = Tokenizer(_bpe(model, vocabulary, merges, ignore_merges=splitting.whole_words))
    if normalizer := splitting.normalizer():
        found.normalizer = normalizer
    found.pre_tokenizer, found.decoder = splitting.pre_tokenizer(), decoders.ByteLevel()
    return found


def _pair(merge: str) -> tuple[str, str]:
    """Returns the two tokens of a merge; a token may begin with a space."""
    at = merge.index(" ", 1)
    return merge[:at], merge[at + 1 :]


def _sentencepiece(model: GgufModel, tokens: Sequence[str]) -> Tokenizer:
    """Returns SentencePiece's BPE, which merges the pair with the best score first."""
    scores = model.items("tokenizer.ggml.scores", float, required=True) or []
    vocabulary = {token: number for number, token in enumerate(tokens)}
    unmerged = (TokenKind.CONTROL, TokenKind.UNUSED, TokenKind.BYTE)
    whole = {number for number in range(len(tokens)) if _kind(model, number) not in unmerged}
    pairs = [
        (-scores[number], number, first, second)
        for token, number in vocabulary.items()
        if number in whole
        for first, second in _splits(token, vocabulary)
    ]
    merges = [(first, second) for _, _, first, second in sorted(pairs, key=lambda pair: pair[:2])]
    found = Tokenizer(_bpe(model, vocabulary, merges, **_fallback(model, tokens)))
    prefix = model.get("tokenizer.ggml.add_space_prefix", bool, True)
    steps = [normalizers.Prepend(SPACE)] if prefix else []
    found.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    found.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return found


def _gemma(model: GgufModel, tokens: Sequence[str]) -> Tokenizer:
    """Returns Gemma's BPE, whose merges are in the order of the tokens that they make.

    The file has runs of spaces as spaces; the tokenizer looks for them as it does for every other.
    """
    spelled = [SPACE * len(token) if token and not token.strip(" ") else token for token in tokens]
    vocabulary = {token: number for number, token in enumerate(spelled)}
    merges = [pair for token in spelled for pair in _splits(token, vocabulary)]
    found = Tokenizer(_bpe(model, vocabulary, merges, **_fallback(model, tokens)))
    found.normalizer = normalizers.Replace(" ", SPACE)
    found.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    found.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return found


def _splits(token: str, vocabulary: dict[str, int]) -> _Merges:
    """Returns the pairs of tokens that make a token, in the vocabulary's order."""
    pairs = [(token[:at], token[at:]) for at in range(1, len(token))]
    known = [(first, second) for first, second in pairs if first in vocabulary and second in vocabulary]
    return sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))


def _bpe(model: GgufModel, vocabulary: dict[str, int], merges: _Merges, **settings: Any) -> BPE:
    try:
        return BPE(vocab=vocabulary, merges=merges, **settings)
    except Exception as error:  # the library has no type of its own
        raise UserError(f"{model.path} has merges that its tokens do not make: {error}", DAMAGED) from None


def _fallback(model: GgufModel, tokens: Sequence[str]) -> dict[str, Any]:
    """Returns SentencePiece's settings: what is no token becomes bytes, or the unknown token."""
    unknown = _special(model, tokens, _SPECIAL["unk_token"])
    given = {} if unknown is None else {"unk_token": unknown}
    return {"byte_fallback": True, "fuse_unk": True, **given}


def _post_processor(
    model: GgufModel, tokens: Sequence[str], special: dict[str, str | None]
) -> TemplateProcessing:
    """Returns what adds the tokens that begin and end a text."""
    first = special["bos_token"] if _adds(model, "add_bos_token") else None
    last = special["eos_token"] if _adds(model, "add_eos_token") else None
    texts = [[*([first] if first else []), f"${part}", *([last] if last else [])] for part in "AB"]
    second = [f"{piece}:1" for piece in texts[1]]
    used = {token: tokens.index(token) for token in (first, last) if token}
    return TemplateProcessing(
        single=texts[0],
        pair=[*(f"{piece}:0" for piece in texts[0]), *second],
        special_tokens=list(used.items()),
    )


def _adds(model: GgufModel, key: str) -> bool:
    """Returns whether a text gets a token; where a file is silent, the tokenizer's kind decides."""
    pre = SPLITTINGS.get(model.get("tokenizer.ggml.pre", str, ""))
    spm = model.required("tokenizer.ggml.model", str) == "llama"
    usual = key == "add_bos_token" and (spm or bool(pre and pre.begins))
    return bool(model.get(f"tokenizer.ggml.{key}", bool, usual))


def _special(model: GgufModel, tokens: Sequence[str], key: str) -> str | None:
    number = model.get(f"tokenizer.ggml.{key}", int)
    return tokens[number] if number is not None and 0 <= number < len(tokens) else None


def _kind(model: GgufModel, number: int) -> int:
    kinds = model.metadata.get("tokenizer.ggml.token_type")
    return int(kinds[number]) if kinds else 1


def _of_kind(model: GgufModel, tokens: Sequence[str], kind: int) -> list[str]:
    return [token for number, token in enumerate(tokens) if token and _kind(model, number) == kind]
