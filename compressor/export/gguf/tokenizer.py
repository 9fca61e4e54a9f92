"""The tokenizer of a model as the metadata of a GGUF file.

It is the inverse of `lathe.artefact.gguf.tokenizer`. llama.cpp splits texts by code of its own, which
a file names. The name is found by comparing how texts are split; in the end the tokenizer that the metadata
describes has to give the tokens that the model's own gives.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from lathe.artefact.errors import UserError
from lathe.artefact.gguf.file import GgufModel
from lathe.artefact.gguf.pre_tokenizers import SPLITTINGS, Splitting
from lathe.artefact.gguf.tokenizer import PROBE, SPACE, TokenKind, build_tokenizer
from lathe.artefact.modeling import register
from lathe.artefact.tokenizer import open_tokenizer

_PREFIX = "tokenizer.ggml."
NONE = {f"{_PREFIX}model": "no_vocab"}
"""The metadata of a file without a tokenizer."""
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
_PROBES = (PROBE, "  def f(x):\n    return x**2 # 100,000\n", "Größe naïve 日本語 it's I'LL 1234567")
_USUAL = ("llama-bpe", "gpt-2", "qwen2")
"""Names that are taken first where several split alike."""


def tokenizer_metadata(directory: Path, vocab_size: int, architecture: str) -> dict[str, Any]:
    """Returns the metadata of a checkpoint's tokenizer, with its chat template.

    Args:
        directory: The checkpoint.
        vocab_size: Rows of its embedding, each of which is a token in the file.
        architecture: That of the file.

    Raises:
        UserError: llama.cpp has no such tokenizer.
    """
    register()
    tokenizer = open_tokenizer(directory)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _refused(directory, "it is none of the library `tokenizers`")
    document = json.loads(backend.to_str())
    found = {f"{_PREFIX}{key}": value for key, value in _vocabulary(directory, document, vocab_size).items()}
    found |= _special(directory, tokenizer, vocab_size)
    template = tokenizer.chat_template
    if template := template.get("default") if isinstance(template, dict) else template:
        found["tokenizer.chat_template"] = template
    _check(directory, tokenizer, found, architecture)
    return found


def _vocabulary(directory: Path, document: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    model = document["model"]
    if model["type"] != "BPE":
        raise _refused(directory, f"it is of the type {model['type']}")
    added = {token["id"]: token for token in document["added_tokens"]}
    tokens = {number: token for token, number in model["vocab"].items()}
    tokens |= {number: token["content"] for number, token in added.items()}
    kinds = {
        number: TokenKind.CONTROL if t["special"] else TokenKind.USER_DEFINED for number, t in added.items()
    }
    names = [tokens.get(number, f"[PAD{number}]") for number in range(vocab_size)]
    types = [kinds.get(n, TokenKind.NORMAL if n in tokens else TokenKind.UNUSED) for n in range(vocab_size)]
    known = set(names)
    merges = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    merges = [pair for pair in merges if {*pair, "".join(pair)} <= known]
    if model.get("byte_fallback"):
        return _sentencepiece(document, names, types, merges)
    return {
        "model": "gpt2",
        "pre": _splitting(directory, document),
        "tokens": names,
        "token_type": [int(kind) for kind in types],
        "merges": [" ".join(pair) for pair in merges],
    }


def _sentencepiece(
    document: Mapping[str, Any], names: list[str], types: list[TokenKind], merges: list[tuple[str, ...]]
) -> dict[str, Any]:
    """Returns SentencePiece's BPE, in which the score of what two tokens make says which pair is first.

    Tokens that the user defined have spaces as they are.
    """
    unknown = document["model"].get("unk_token")
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(merges):
        ranks.setdefault("".join(pair), rank)
    kinds = [_sentencepiece_kind(name, kind, unknown) for name, kind in zip(names, types, strict=True)]
    spelled = [
        name.replace(SPACE, " ") if kind == TokenKind.USER_DEFINED else name
        for name, kind in zip(names, kinds, strict=True)
    ]
    return {
        "model": "llama",
        "pre": "default",
        "tokens": spelled,
        "token_type": [int(kind) for kind in kinds],
        "scores": [-float(ranks.get(name, len(merges))) for name in names],
        "add_space_prefix": _prefixes(document),
    }


def _sentencepiece_kind(name: str, kind: TokenKind, unknown: str | None) -> TokenKind:
    if name == unknown:
        return TokenKind.UNKNOWN
    return TokenKind.BYTE if kind == TokenKind.NORMAL and _BYTE_TOKEN.fullmatch(name) else kind


def _prefixes(document: Mapping[str, Any]) -> bool:
    """Returns whether a text gets a space in front."""
    steps = [document["normalizer"] or {}, document["pre_tokenizer"] or {}]
    steps += [inner for step in steps for inner in step.get("normalizers", step.get("pretokenizers", []))]
    return any(
        step.get("type") == "Prepend"
        or (step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never")
        for step in steps
    )


def _splitting(directory: Path, document: Mapping[str, Any]) -> str:
    """Returns llama.cpp's name of how texts are split before BPE."""
    backend = Tokenizer.from_str(json.dumps(document))
    whole_words = bool(document["model"].get("ignore_merges"))
    for name in sorted(SPLITTINGS, key=lambda name: name not in _USUAL):
        if SPLITTINGS[name].whole_words == whole_words and _alike(backend, SPLITTINGS[name]):
            return name
    raise _refused(directory, "it splits texts in a way that Lathe knows no name for")


def _alike(backend: Tokenizer, splitting: Splitting) -> bool:
    """Returns whether both make the same pieces of texts."""
    return all(
        _pieces(backend.normalizer, backend.pre_tokenizer, text)
        == _pieces(splitting.normalizer(), splitting.pre_tokenizer(), text)
        for text in _PROBES
    )


def _pieces(normalizer: Any, pre_tokenizer: Any, text: str) -> list[str]:
    text = normalizer.normalize_str(text) if normalizer else text
    return [piece for piece, _ in pre_tokenizer.pre_tokenize_str(text)] if pre_tokenizer else [text]


def _special(directory: Path, tokenizer: Any, vocab_size: int) -> dict[str, Any]:
    """Returns which tokens begin, end and fill texts, and whether a text gets them."""
    ids = tokenizer("a")["input_ids"]
    ends = [end for end in _ends(directory, tokenizer) if end < vocab_size]
    found: dict[str, int | None] = dict(zip(_ENDS, ends, strict=False))
    found["bos_token_id"] = tokenizer.bos_token_id
    found["padding_token_id"] = tokenizer.pad_token_id
    found["unknown_token_id"] = tokenizer.unk_token_id
    known = {key: number for key, number in found.items() if number is not None and number < vocab_size}
    adds = {
        "add_bos_token": bool(ids) and ids[0] == tokenizer.bos_token_id,
        "add_eos_token": bool(ids) and ids[-1] == tokenizer.eos_token_id,
    }
    return {f"{_PREFIX}{key}": value for key, value in {**known, **adds}.items()}


def _ends(directory: Path, tokenizer: Any) -> list[int]:
    """Returns the tokens that end an answer, the tokenizer's own first."""
    found = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    for file in ("generation_config.json", "config.json"):
        try:
            given = json.loads((directory / file).read_text(encoding="utf-8")).get("eos_token_id")
        except (OSError, ValueError):
            continue
        found += given if isinstance(given, list) else [] if given is None else [given]
    return [*dict.fromkeys(found)]


def _check(directory: Path, tokenizer: Any, found: dict[str, Any], architecture: str) -> None:
    """Checks that the metadata describe a tokenizer that gives the same tokens."""
    model = GgufModel(directory, (), {"general.architecture": architecture, **found}, {})
    built = build_tokenizer(model)
    for text in _PROBES:
        if built(text)["input_ids"] != tokenizer(text)["input_ids"]:
            raise _refused(directory, f"the nearest one gives other tokens for {text!r}")


def _refused(directory: Path, why: str) -> UserError:
    return UserError(
        f"the tokenizer of {directory} has no form in llama.cpp: {why}",
        "Export the model as a checkpoint, for vLLM or as an ONNX graph.",
    )
