from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Fast
from tokenizers import decoders, models
from transformers import PreTrainedTokenizerFast

from lathe.artefact.errors import UserError
from lathe.serving.decoding.chat_template import TemplateError
from lathe.serving.decoding.tokenizer import Tokenizer
from support.tiny_server import TEXT


@pytest.fixture(scope="module")
def tokenizer(artefact_dir: Path) -> Tokenizer:
    return Tokenizer(artefact_dir)


@pytest.mark.parametrize("text", [*TEXT, "", "  spaces\n\ttabs ", "\u0000\u007f", "👩‍👩‍👧"])
def test_pieces_add_up_to_the_text(tokenizer: Tokenizer, text: str):
    tokens = tokenizer.encode(text)
    assert tokens[0] == 0
    assert b"".join(map(tokenizer.token_bytes, tokens)).decode() == text


def test_special_tokens_add_no_text_but_have_a_label(tokenizer: Tokenizer):
    assert (tokenizer.token_bytes(1), tokenizer.display_bytes(1)) == (b"", b"</s>")
    assert (tokenizer.token_bytes(10**6), tokenizer.display_bytes(10**6)) == (b"", b"")


def test_a_chat_is_rendered_without_a_second_bos(tokenizer: Tokenizer):
    tokens = tokenizer.encode_chat([{"role": "user", "content": "The fox"}]).tolist()
    assert tokens.count(0) == 1
    assert tokens[1] == 2
    assert tokens[-1] == 3


def test_a_refusing_template_is_told(tokenizer: Tokenizer):
    messages = [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]
    with pytest.raises(TemplateError, match="must come first"):
        tokenizer.encode_chat(messages)


def test_a_hopeless_text_is_seen_by_its_length(tokenizer: Tokenizer):
    assert tokenizer.surely_longer_than("a" * 10_000, 10)
    assert not tokenizer.surely_longer_than("a" * 10, 10)


def test_sentencepiece_bytes(tmp_path: Path):
    vocabulary = {"<unk>": 0, "\u2581the": 1, "<0xC3>": 2, "<0xA9>": 3, "\u2581": 4}
    fast = Fast(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    fast.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    PreTrainedTokenizerFast(tokenizer_object=fast, unk_token="<unk>").save_pretrained(tmp_path)
    tokenizer = Tokenizer(tmp_path)
    assert b"".join(map(tokenizer.token_bytes, [1, 2, 3, 4])).decode() == " theé "


def test_unknown_decoders_and_missing_files_are_user_errors(tmp_path: Path):
    with pytest.raises(UserError, match="cannot load the tokenizer"):
        Tokenizer(tmp_path)
    fast = Fast(models.WordLevel({"a": 0}, unk_token="a"))
    fast.decoder = decoders.WordPiece()
    PreTrainedTokenizerFast(tokenizer_object=fast).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="WordPiece"):
        Tokenizer(tmp_path)


def test_c15_tokens_beyond_the_vocabulary_are_warned_of(artefact_dir: Path, tmp_path: Path):
    served = Tokenizer(artefact_dir)
    assert served.warning(320) is None
    warning = served.warning(3)
    assert warning is not None
    assert "<|assistant|>" in warning
    assert "which the model's vocabulary of 3 has no place for" in warning


def test_c12_a_tokenizer_with_code_of_its_own_is_refused(artefact_dir: Path, tmp_path: Path):
    shutil.copytree(artefact_dir, tmp_path / "odd")
    config = json.loads((tmp_path / "odd" / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "OddTokenizer", "auto_map": {"AutoTokenizer": ["odd.OddTokenizer", None]}}
    (tmp_path / "odd" / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"code of its own \(`odd\.OddTokenizer`\)") as refused:
        Tokenizer(tmp_path / "odd")
    assert "trust_remote_code" not in str(refused.value)
