"""S8: a schema may spell special tokens, in any place where it has text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from tokenizers import Tokenizer as Fast
from tokenizers import decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from lathe.serving.decoding.tokenizer import Tokenizer
from lathe.serving.structured_output.grammar import GrammarCompiler
from lathe.serving.structured_output.schema_errors import GrammarError
from lathe.serving.tools.formats.hermes import FORM as HERMES
from lathe.serving.tools.grammar import Tool, ToolCallSpec
from support.tool_models import save_calling_tokenizer

NAMES = ["<s>", "</s>", "<|user|>", "<|assistant|>x", "a <think>", "<tool_call>", "[ARGS]", "é</think>"]
SHAPES = {
    "const": lambda name: {"const": name},
    "enum": lambda name: {"enum": [name, name + name]},
    "pattern": lambda name: {"type": "string", "pattern": f"^{re.escape(name)}$"},
    "key": lambda name: {"type": "object", "properties": {name: {"const": name}}, "required": [name]},
    "any of": lambda name: {"anyOf": [{"const": [name]}, {"const": {name: 1}}]},
}


def unigram(directory: Path) -> None:
    """The special tokens have pieces in the model's own list, too."""
    specials = ["<unk>", "<s>", "</s>", "<|user|>"]
    letters = [chr(code) for code in range(33, 127)] + ["▁", "é", "\n"]
    pieces = [*specials, *letters, *(f"<0x{byte:02X}>" for byte in range(128, 256))]
    fast = Fast(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0, byte_fallback=True))
    fast.normalizer = normalizers.Replace(" ", "▁")
    fast.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    saved = PreTrainedTokenizerFast(
        tokenizer_object=fast,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=specials[3:],
    )
    saved.save_pretrained(directory)


@pytest.fixture(scope="module", params=["byte-level", "unigram"])
def grammars(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp("tokenizer")
    (save_calling_tokenizer if request.param == "byte-level" else unigram)(directory)
    tokenizer = Tokenizer(directory)
    end = tokenizer.token("</s>")
    return GrammarCompiler(tokenizer, 328, {end}), tokenizer, end


def walk(grammar: Any, tokenizer: Tokenizer, end: int, seed: int) -> str:
    """A text that the grammar allows, chosen at random."""
    rng = np.random.default_rng(seed)
    constraint, text = grammar.begin(), b""
    while not constraint.complete:
        token = int(rng.choice(np.flatnonzero(constraint.allowed())))
        if token == end:
            break
        assert tokenizer.token_bytes(token), tokenizer.display_bytes(token)
        constraint.accept(token)
        text += tokenizer.token_bytes(token)
    return text.decode()


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("name", NAMES)
def test_s8_a_schema_that_spells_a_special_token_is_kept_to(grammars: Any, name: str, shape: str):
    compiler, tokenizer, end = grammars
    value = SHAPES[shape](name)
    schema = {
        "type": "object",
        "properties": {"v": value},
        "required": ["v"],
        "additionalProperties": False,
    }
    jsonschema.validate(json.loads(walk(compiler.compile(schema), tokenizer, end, 1)), schema)


def test_s8_a_tokenizer_that_no_schema_can_be_kept_to_with_is_told(tmp_path: Path):
    fast = Fast(models.Unigram([("<unk>", 0.0), ("▁a", -1.0)], unk_id=0))
    fast.decoder = decoders.Metaspace()
    PreTrainedTokenizerFast(tokenizer_object=fast, unk_token="<unk>").save_pretrained(tmp_path)
    with pytest.raises(GrammarError, match=r"^no schema can be enforced with this model's tokenizer$"):
        GrammarCompiler(Tokenizer(tmp_path), 2, {1}).compile({"type": "object"})


@pytest.mark.parametrize("name", NAMES)
def test_s8_so_may_the_schema_of_a_tool(tmp_path: Path, name: str):
    save_calling_tokenizer(tmp_path)
    tokenizer = Tokenizer(tmp_path)
    value = {"type": "object", "properties": {"v": {"const": name}}, "required": ["v"]}
    spec = ToolCallSpec(HERMES, [Tool("f", value)], "required", several=False)
    said = walk(GrammarCompiler(tokenizer, 328, {1}).compile_tools(spec), tokenizer, 1, 2)
    assert said.startswith("<tool_call>")
    assert said.endswith("</tool_call>")
    call = json.loads(said.removeprefix("<tool_call>").removesuffix("</tool_call>"))
    assert call == {"name": "f", "arguments": {"v": name}}
