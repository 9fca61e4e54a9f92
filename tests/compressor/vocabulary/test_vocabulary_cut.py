"""A cut vocabulary: the text keeps its tokens, any other text can be written, and the model is the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoTokenizer

from lathe.artefact.errors import UserError
from lathe.compressor.calibration.documents import SilentLog
from lathe.compressor.model.checkpoint import open_checkpoint
from lathe.compressor.vocabulary import CutVocabulary, cut_vocabulary
from support.tiny_tokenizers import KINDS, SPECIAL, WORDS, byte_level, save_model

USED = WORDS[:20]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two texts that use a part of the words."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "a.txt").write_text(" ".join(USED) + ".\n" + " ".join(reversed(USED)) + " lender nearer")
    (folder / "b.jsonl").write_text(json.dumps({"text": "the  books\n\tof a library"}) + "\n")
    return folder


@pytest.fixture(scope="module", params=KINDS)
def cut(request: pytest.FixtureRequest, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp("model") / "tiny"
    save_model(directory, KINDS[request.param]())
    return cut_of(directory, texts)


def cut_of(directory: Path, texts: Path) -> CutVocabulary:
    return cut_vocabulary(
        open_checkpoint(str(directory)), str(texts), SilentLog(), directory.parent / "cache"
    )


def tokenizers(cut: CutVocabulary) -> tuple[Any, Any]:
    return tuple(AutoTokenizer.from_pretrained(source.path) for source in (cut.whole, cut.source))


def returned(tokenizer: Any, text: str) -> str:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def test_fewer_rows_and_the_text_keeps_its_tokens(cut: CutVocabulary, texts: Path) -> None:
    before, after = tokenizers(cut)
    rows, kept = cut.rows
    assert kept == len(cut.kept) == len(after) < rows
    for text in ((texts / "a.txt").read_text(), "the  books\n\tof a library"):
        assert cut.kept[after(text)["input_ids"]].tolist() == before(text)["input_ids"]


def test_special_tokens_keep_their_roles(cut: CutVocabulary) -> None:
    before, after = tokenizers(cut)
    for role in ("bos_token", "eos_token", "pad_token", "unk_token"):
        assert getattr(after, role) == getattr(before, role)
        assert cut.kept[getattr(after, f"{role}_id")] == getattr(before, f"{role}_id")
    assert {"<unused0>", "<unused1>"}.isdisjoint(after.get_vocab())
    config = json.loads((cut.source.path / "config.json").read_text())
    generation = json.loads((cut.source.path / "generation_config.json").read_text())
    for document in (config, generation):
        assert document["eos_token_id"] == after.eos_token_id
        assert document["bos_token_id"] == after.bos_token_id
    chat = [{"role": "user", "content": "the library"}]
    written = [str(t.apply_chat_template(chat, tokenize=False)) for t in (before, after)]
    assert written[0] == written[1]
    ids = [t(written[0], add_special_tokens=False)["input_ids"] for t in (before, after)]
    assert cut.kept[ids[1]].tolist() == ids[0]


@settings(max_examples=60)
@given(st.text(max_size=40))
def test_any_text_is_written_as_before(cut: CutVocabulary, text: str) -> None:
    before, after = tokenizers(cut)
    assert returned(after, text) == returned(before, text)


@settings(max_examples=40)
@given(st.lists(st.sampled_from([*USED, "lender", "nearer"]), min_size=1, max_size=12))
def test_other_sentences_of_the_same_words_keep_their_tokens(cut: CutVocabulary, words: list[str]) -> None:
    before, after = tokenizers(cut)
    text = "the " + " ".join(words) + " the"
    assert cut.kept[after(text)["input_ids"]].tolist() == before(text)["input_ids"]


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_those_of_the_kept_tokens(texts: Path, tmp_path: Path, tied: bool) -> None:
    save_model(tmp_path / "tiny", byte_level(), tie_word_embeddings=tied)
    cut = cut_of(tmp_path / "tiny", texts)
    whole, small = (AutoModelForCausalLM.from_pretrained(s.path).eval() for s in (cut.whole, cut.source))
    assert small.config.vocab_size == len(cut.kept)
    tokens = torch.arange(len(cut.kept))[None, :64]
    with torch.no_grad():
        expected = whole(cut.kept[tokens]).logits[..., cut.kept]
        torch.testing.assert_close(small(tokens).logits, expected)
    before, after = cut.table_bytes
    assert before == 4 * 32 * cut.rows[0] * (1 if tied else 2)
    assert after == 4 * 32 * cut.rows[1] * (1 if tied else 2)


def test_ids_of_generation_are_renumbered(texts: Path, tmp_path: Path) -> None:
    model = save_model(tmp_path / "tiny", byte_level())
    tokenizer = AutoTokenizer.from_pretrained(model)
    odd, even = (tokenizer.convert_tokens_to_ids(token) for token in ("Ġnumber", "Ġseven"))
    file = model / "generation_config.json"
    settings_ = {
        "eos_token_id": [1, odd],
        "suppress_tokens": [even],
        "bad_words_ids": [[odd, even], [2]],
        "sequence_bias": [[[odd], -2], [[even], 1.5]],
        "forced_decoder_ids": [[1, even]],
        "temperature": 0.7,
        "max_length": 20,
    }
    file.write_text(json.dumps(settings_))
    cut = cut_of(model, texts)
    new = {int(old): number for number, old in enumerate(cut.kept)}
    found = json.loads((cut.source.path / "generation_config.json").read_text())
    o, e = new[odd], new[even]
    assert found == {
        "eos_token_id": [new[1], o],
        "suppress_tokens": [e],
        "bad_words_ids": [[o, e], [new[2]]],
        "sequence_bias": [[[o], -2], [[e], 1.5]],
        "forced_decoder_ids": [[1, e]],
        "temperature": 0.7,
        "max_length": 20,
    }


def test_a_placeholder_with_a_role_stays(texts: Path, tmp_path: Path) -> None:
    model = save_model(tmp_path / "tiny", byte_level(), pad_token_id=SPECIAL.index("<unused0>"))
    cut = cut_of(model, texts)
    _, after = tokenizers(cut)
    assert "<unused0>" in after.get_vocab()
    assert "<unused1>" not in after.get_vocab()
    assert cut.source.config["pad_token_id"] == after.convert_tokens_to_ids("<unused0>")


def test_the_same_cut_is_made_once(texts: Path, tmp_path: Path) -> None:
    model = save_model(tmp_path / "tiny", byte_level())
    first = cut_of(model, texts)
    written = (first.source.path / "model.safetensors").stat().st_mtime_ns
    again = cut_of(model, texts)
    assert again.source.path == first.source.path
    assert (again.source.path / "model.safetensors").stat().st_mtime_ns == written
    assert again.source.name == "tiny"


def edited(directory: Path, **changes: Any) -> None:
    file = directory / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def without_tokenizer_json(directory: Path) -> None:
    (directory / "tokenizer.json").rename(directory / "vocab.json")


def word_level(directory: Path) -> None:
    Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>")).save(
        str(directory / "tokenizer.json")
    )


def own_code(directory: Path) -> None:
    file = directory / "tokenizer_config.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps(document | {"auto_map": {"AutoTokenizer": ["own.Tokenizer", None]}}))


def with_suffix(directory: Path) -> None:
    document = json.loads((directory / "tokenizer.json").read_text())
    edited(directory, model=document["model"] | {"end_of_word_suffix": "</w>"})


def beyond(directory: Path) -> None:
    document = json.loads((directory / "config.json").read_text())
    small = document | {"vocab_size": document["vocab_size"] - 1}
    (directory / "config.json").write_text(json.dumps(small))
    weights = load_file(directory / "model.safetensors")
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][:-1].contiguous()
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    tokens = json.loads((directory / "tokenizer.json").read_text())
    last = {"id": small["vocab_size"], "content": "<|last|>", "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    vocabulary = {t: i for t, i in tokens["model"]["vocab"].items() if i < small["vocab_size"]}
    merges = [pair for pair in tokens["model"]["merges"] if "".join(pair) in vocabulary]
    edited(
        directory,
        model=tokens["model"] | {"vocab": vocabulary, "merges": merges},
        added_tokens=[*tokens["added_tokens"], last | flags],
    )


def nameless(directory: Path) -> None:
    file = directory / "config.json"
    document = json.loads(file.read_text())
    extra = document["vocab_size"]
    file.write_text(json.dumps(document | {"vocab_size": extra + 8, "eos_token_id": extra + 3}))
    weights = load_file(directory / "model.safetensors")
    table = weights["model.embed_tokens.weight"]
    weights["model.embed_tokens.weight"] = torch.cat([table, table[:8]])
    save_file(weights, directory / "model.safetensors", {"format": "pt"})


REFUSED = {
    without_tokenizer_json: "has no tokenizer.json",
    word_level: "`WordLevel`, which could not write a word",
    own_code: r"has code of its own \(`own.Tokenizer`\)",
    with_suffix: "sets `end_of_word_suffix` to '</w>'",
    beyond: r"has `<\|last\|>` as token 504, and the model",
    nameless: "eos_token_id of .* which is no token of the tokenizer",
}


@pytest.mark.parametrize("change", REFUSED)
def test_what_cannot_be_cut_is_refused_with_its_reason(change: Any, texts: Path, tmp_path: Path) -> None:
    model = save_model(tmp_path / "tiny", byte_level())
    change(model)
    with pytest.raises(UserError, match=f"the vocabulary cannot be cut: .*{REFUSED[change]}"):
        cut_of(model, texts)
    assert not list((tmp_path / "cache").rglob("config.json"))
