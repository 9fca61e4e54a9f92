"""Tokenizers in GGUF files: tokens as the model's own gives them, and kinds that llama.cpp lacks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from transformers import AutoTokenizer

from lathe.artefact.errors import UserError
from lathe.artefact.gguf.file import GgufModel
from lathe.artefact.gguf.pre_tokenizers import SPLITTINGS
from lathe.artefact.gguf.tokenizer import TokenKind, build_tokenizer
from lathe.artefact.gguf_suffix import MODEL_FILE
from lathe.compressor.export import Export, exporters
from lathe.compressor.export.gguf.tokenizer import tokenizer_metadata
from lathe.compressor.model.checkpoint import open_checkpoint
from support.tiny_tokenizers import BYTES, CHAT, KINDS, TEXT, byte_level, save_model, sentencepiece_bpe

UNKNOWN = "naïve 日本 🙂 12,345\n\n  x"


def metadata(directory: Path, tokenizer: Tokenizer, rows: int | None = None) -> dict[str, Any]:
    save_model(directory, tokenizer)
    return tokenizer_metadata(directory, rows or tokenizer.get_vocab_size(), "deci")


def read_back(found: dict[str, Any]) -> Any:
    return build_tokenizer(GgufModel(Path("m.gguf"), (), {"general.architecture": "deci", **found}, {}))


@pytest.mark.parametrize("name", ["byte-level BPE", "SentencePiece BPE"])
def test_a_tokenizer_is_the_same_when_it_is_read_back(name: str, tmp_path: Path) -> None:
    found = metadata(tmp_path, KINDS[name]())
    own, back = AutoTokenizer.from_pretrained(tmp_path), read_back(found)
    for text in (TEXT[3], UNKNOWN, "<s> a</s><|user|>b"):
        assert back(text)["input_ids"] == own(text)["input_ids"]
    assert found["tokenizer.chat_template"] == CHAT
    kinds = found["tokenizer.ggml.token_type"]
    assert kinds[own.convert_tokens_to_ids("<|user|>")] == TokenKind.CONTROL
    assert found["tokenizer.ggml.bos_token_id"] == own.bos_token_id
    assert found["tokenizer.ggml.eos_token_id"] == own.eos_token_id
    assert found["tokenizer.ggml.add_bos_token"] is True
    assert found["tokenizer.ggml.add_eos_token"] is False


def test_sentencepiece_has_scores_by_merges_and_tokens_of_bytes(tmp_path: Path) -> None:
    found = metadata(tmp_path, sentencepiece_bpe())
    tokens, scores = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.scores"]
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    first, second = document["model"]["merges"][5]
    assert scores[tokens.index(first + second)] == -5
    assert found["tokenizer.ggml.token_type"][tokens.index(BYTES[65])] == TokenKind.BYTE
    assert found["tokenizer.ggml.token_type"][tokens.index("<unk>")] == TokenKind.UNKNOWN
    assert found["tokenizer.ggml.add_space_prefix"] is False


def test_a_space_in_front_of_texts_is_kept(tmp_path: Path) -> None:
    tokenizer = sentencepiece_bpe()
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = None  # type: ignore[assignment]
    found = metadata(tmp_path, tokenizer)
    assert found["tokenizer.ggml.add_space_prefix"] is True
    own = AutoTokenizer.from_pretrained(tmp_path)
    assert read_back(found)("river water")["input_ids"] == own("river water")["input_ids"]


@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "qwen2", "smollm", "tekken", "gpt-4o"])
def test_the_way_of_splitting_has_its_name(name: str, tmp_path: Path) -> None:
    splitting, tokenizer = SPLITTINGS[name], byte_level()
    if normalizer := splitting.normalizer():
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitting.pre_tokenizer()
    tokenizer.model.ignore_merges = splitting.whole_words
    assert metadata(tmp_path, tokenizer)["tokenizer.ggml.pre"] == name


def test_rows_without_a_token_are_filled(tmp_path: Path) -> None:
    size = byte_level().get_vocab_size()
    more = metadata(tmp_path / "more", byte_level(), size + 3)
    assert more["tokenizer.ggml.tokens"][size:] == [f"[PAD{size + i}]" for i in range(3)]
    assert more["tokenizer.ggml.token_type"][size:] == [TokenKind.UNUSED] * 3


def test_several_ends_of_an_answer(tmp_path: Path) -> None:
    save_model(tmp_path, byte_level())
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 4, 5]}')
    found = tokenizer_metadata(tmp_path, byte_level().get_vocab_size(), "deci")
    ends = [found[f"tokenizer.ggml.{key}_token_id"] for key in ("eos", "eot", "eom")]
    assert ends == [1, 4, 5]


@pytest.mark.parametrize(("name", "told"), [("Unigram", "of the type Unigram"), ("WordPiece", "WordPiece")])
def test_kinds_that_llama_cpp_lacks_are_refused(name: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no form in llama.cpp: .*{told}"):
        metadata(tmp_path, KINDS[name]())


def test_an_unknown_way_of_splitting_is_refused(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex("[aeiou]"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    with pytest.raises(UserError, match="splits texts in a way that Lathe knows no name for"):
        metadata(tmp_path, tokenizer)


def test_tokens_that_differ_are_refused(tmp_path: Path) -> None:
    """A normalizer that lowers letters has no place in the metadata."""
    tokenizer = sentencepiece_bpe()
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "▁")])
    with pytest.raises(UserError, match="the nearest one gives other tokens"):
        metadata(tmp_path, tokenizer)


@pytest.mark.parametrize("name", ["byte-level BPE", "SentencePiece BPE"])
def test_an_even_file_is_read_as_the_model_that_it_was_written_from(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path / "cache"))
    source = open_checkpoint(str(save_model(tmp_path / "model", KINDS[name](), intermediate_size=64)))
    exporters.get("gguf").write(tmp_path, Export.whole(source))
    again = open_checkpoint(str(tmp_path / MODEL_FILE))
    assert again.shape == source.shape
    assert again.config["rope_parameters"]["rope_theta"] == source.config["rope_parameters"]["rope_theta"]
    for tensor in source.names():
        assert torch.equal(again.tensor(tensor), source.tensor(tensor))
    own, read = (AutoTokenizer.from_pretrained(path) for path in (source.path, again.path))
    assert read(TEXT[5])["input_ids"] == own(TEXT[5])["input_ids"]
