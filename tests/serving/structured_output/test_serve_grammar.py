from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import Tokenizer as Fast
from tokenizers import decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from lathe.serving.decoding.tokenizer import Tokenizer
from lathe.serving.structured_output.grammar import GrammarCompiler
from lathe.serving.structured_output.schema_errors import GrammarError

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer", "maximum": 99}, "b": {"type": "boolean"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
PIECES = ["\u2581", "\u2581the", "\u2581{", "{", '"', "a", '":', '{"', "\u25811", "1", ":", "}", '\u2581"']


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
    vocabulary = {name: i for i, name in enumerate(names)}
    fast = Fast(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    fast.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    fast.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    saved = PreTrainedTokenizerFast(tokenizer_object=fast, eos_token="</s>", unk_token="<unk>")
    saved.save_pretrained(directory)
    return Tokenizer(directory)


@pytest.mark.parametrize("seed", range(4))
def test_any_walk_through_a_sentencepiece_vocabulary_is_a_document(sentencepiece: Tokenizer, seed: int):
    rng = np.random.default_rng(seed)
    padded = 3 + 256 + len(PIECES) + 5
    constraint = GrammarCompiler(sentencepiece, padded, {2}).compile(SCHEMA).begin()
    text = b""
    while not constraint.complete:
        token = int(rng.choice(np.flatnonzero(constraint.allowed())))
        constraint.accept(token)
        text += sentencepiece.token_bytes(token)
    document = json.loads(text)
    assert list(document) == ["a", "b"]
    assert document["a"] <= 99


def test_a_token_that_was_not_allowed_is_an_error(sentencepiece: Tokenizer):
    constraint = GrammarCompiler(sentencepiece, 300, {2}).compile(SCHEMA).begin()
    with pytest.raises(GrammarError):
        constraint.accept(3 + ord("x"))


def test_without_an_end_token_nothing_can_end(sentencepiece: Tokenizer):
    with pytest.raises(GrammarError, match="end token"):
        GrammarCompiler(sentencepiece, 300, set()).compile(SCHEMA)
