"""A GGUF file's tokenizer gives the ids of the one that it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, GemmaTokenizer, PreTrainedTokenizerFast
from transformers.models.llama.tokenization_llama import LlamaTokenizer
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer

from lathe.artefact.errors import UserError
from lathe.artefact.gguf.pre_tokenizers import SPLITTINGS
from lathe.artefact.tokenizer import open_tokenizer
from lathe.compressor.model.gguf import checkpoint_directory
from support.tiny_families import random_model
from support.tiny_gguf import byte_level_tokens, write_gguf
from support.tiny_server import CHAT_TEMPLATE, TEXT, save_tokenizer

SPACE = "\u2581"
TEXTS = [
    *TEXT,
    "",
    " a leading space, and  two   three\n\n\nnew lines\t\ttabs ",
    "In 2024, 12345.67 dollars; it's WE'LL I'm",
    "<s>a special</s> <|user|>token",
    "cafe\u0301 \u212b composed, \U0001f600\u200d\U0001f680 \x00",
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path / "cache"))


def converted(file: Path, family: str, tokens: dict[str, Any]) -> Any:
    """The tokenizer of a GGUF file with this metadata."""
    model = random_model(family, vocab_size=len(tokens["tokenizer.ggml.tokens"]))
    return open_tokenizer(checkpoint_directory(write_gguf(file, model, tokens=tokens)))


def same_ids(found: Any, source: Any) -> None:
    for text in TEXTS:
        expected = source(text)["input_ids"]
        assert found(text)["input_ids"] == expected, text
        assert found.decode(expected) == source.decode(expected)
    assert (found.bos_token, found.eos_token) == (source.bos_token, source.eos_token)


def test_byte_level_with_a_chat_template(tmp_path: Path) -> None:
    source = tmp_path / "source"
    save_tokenizer(source)
    found = converted(tmp_path / "tiny.gguf", "llama, plain", byte_level_tokens(source))
    expected = AutoTokenizer.from_pretrained(source)
    same_ids(found, expected)
    assert found.chat_template == expected.chat_template == CHAT_TEMPLATE
    chat = [{"role": "user", "content": "2024?"}]
    assert found.apply_chat_template(chat)["input_ids"] == expected.apply_chat_template(chat)["input_ids"]


def trained(directory: Path, pre: str) -> Any:
    """A byte-level tokenizer whose merges were learned from texts that are split in one way."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=SPLITTINGS[pre].whole_words))
    tokenizer.pre_tokenizer, tokenizer.decoder = SPLITTINGS[pre].pre_tokenizer(), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    source = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    source.save_pretrained(directory)
    return source


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "tekken", "gpt-4o"])
def test_byte_level_by_splitting(tmp_path: Path, pre: str) -> None:
    source = trained(tmp_path / "source", pre)
    tokens = byte_level_tokens(tmp_path / "source", pre) | {"tokenizer.ggml.add_bos_token": False}
    same_ids(converted(tmp_path / "tiny.gguf", "llama, plain", tokens), source)


def test_a_tokenizer_that_transformers_would_load_as_another_is_refused(tmp_path: Path) -> None:
    trained(tmp_path / "source", "gpt-2")
    with pytest.raises(UserError, match=r"tiny.gguf asks for another \(`tokenizer.ggml.pre`: gpt-2"):
        converted(tmp_path / "tiny.gguf", "qwen2", byte_level_tokens(tmp_path / "source", "gpt-2"))


def test_qwen(tmp_path: Path) -> None:
    trained(tmp_path / "source", "qwen2")
    tokens = byte_level_tokens(tmp_path / "source", "qwen2") | {"tokenizer.ggml.add_bos_token": False}
    pairs = [tuple(merge.split(" ")) for merge in tokens["tokenizer.ggml.merges"]]
    vocabulary = {token: number for number, token in enumerate(tokens["tokenizer.ggml.tokens"])}
    source = Qwen2Tokenizer(vocab=vocabulary, merges=pairs, bos_token="<s>", eos_token="</s>", unk_token=None)
    same_ids(converted(tmp_path / "tiny.gguf", "qwen2", tokens), source)


def test_who_begins_a_text_where_the_file_is_silent(tmp_path: Path) -> None:
    for pre, family, begins in (("llama-bpe", "llama, plain", True), ("qwen2", "qwen2", False)):
        trained(tmp_path / pre, pre)
        tokens = byte_level_tokens(tmp_path / pre, pre)
        del tokens["tokenizer.ggml.add_bos_token"]
        found = converted(tmp_path / f"{pre}.gguf", family, tokens)
        assert (found("fox")["input_ids"][0] == 0) == begins


def sentencepiece(words: list[str], *, runs: bool = False) -> dict[str, Any]:
    """A SentencePiece vocabulary: special tokens, bytes, and pieces, the later the worse."""
    special = ["<pad>", "</s>", "<s>", "<unk>"]
    letters = (letter for text in TEXTS for letter in text.replace(" ", SPACE))
    pieces = list(dict.fromkeys([*words, *letters]))
    spaces = ["  ", "   "] if runs else [SPACE * 2, SPACE * 3]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *spaces, *pieces]
    kinds = [3] * 3 + [2] + [6] * 256 + [4 if runs else 1] * 2 + [1] * len(pieces)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.scores": [-float(number) for number in range(len(tokens))],
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
    }


WORDS = [
    "th",
    "er",
    "he",
    f"{SPACE}t",
    "the",
    "in",
    f"{SPACE}the",
    "qu",
    "ick",
    f"{SPACE}qu",
    "ump",
    "new",
    "20",
]


def merges(tokens: list[str]) -> list[tuple[str, str]]:
    """Every way to make a token of two, in the order of the tokens."""
    known = {token: number for number, token in enumerate(tokens)}
    found = []
    for token in tokens:
        pairs = [(token[:at], token[at:]) for at in range(1, len(token))]
        found += sorted((p for p in pairs if {*p} <= known.keys()), key=lambda p: (known[p[0]], known[p[1]]))
    return found


def test_sentencepiece(tmp_path: Path) -> None:
    values = sentencepiece([*WORDS])
    tokens = values["tokenizer.ggml.tokens"]
    source = LlamaTokenizer(
        vocab={token: number for number, token in enumerate(tokens)}, merges=merges(tokens), pad_token="<pad>"
    )
    found = converted(tmp_path / "tiny.gguf", "llama, plain", values)
    for text in TEXTS:
        if not text.startswith(" ") and "<" not in text:  # transformers' class prepends no second space
            expected = source(text, add_special_tokens=False)["input_ids"]
            assert found(text)["input_ids"] == [2, *expected], text
    assert found("\u4e16", add_special_tokens=False)["input_ids"][-3:] == [4 + b for b in "\u4e16".encode()]
    assert found.decode(found("the quick  fox")["input_ids"], skip_special_tokens=True) == "the quick  fox"


def test_gemma(tmp_path: Path) -> None:
    values = sentencepiece([*WORDS], runs=True) | {"tokenizer.ggml.add_space_prefix": False}
    tokens = [SPACE * len(t) if not t.strip(" ") else t for t in values["tokenizer.ggml.tokens"]]
    source = GemmaTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges(tokens),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token=None,
    )
    found = converted(tmp_path / "tiny.gguf", "gemma2", values)
    for text in TEXTS:
        if "<" not in text:
            expected = source(text, add_special_tokens=False)["input_ids"]
            assert found(text)["input_ids"] == [2, *expected], text
    assert len(found) == len(tokens)
