#!/usr/bin/env bash
# llguidance 1.9.1 with tokenizers 0.23.3: added tokens of the shape <...> are special to the grammar, whatever the
# tokenizer says of them.
# The guess: a token added with special=False is ordinary text (so says tokenizers, which decodes it with
# skip_special_tokens=True), hence a Lark literal "<tool_call>" matches what encode("<tool_call>") gives, and a JSON
# string may hold it. Qwen 2.5 and 3 add <tool_call>, </tool_call>, <think>, </think> so.
# Seen: is_special_token is True for <tool_call> and False for [TOOL_CALLS], both added with special=False; a literal
# takes 0 of 1 tokens of the first and all of the second; <[id]> takes the first; a JSON string stops before it.
# Exits non-zero if that changes.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q llguidance==1.9.1 tokenizers==0.23.3
"$work/venv/bin/python" - <<'PY'
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
tokenizer = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
tokenizer.add_special_tokens(["</s>"])
tokenizer.add_tokens([AddedToken(name, special=False) for name in ("<tool_call>", "[TOOL_CALLS]")])
angle, square = (tokenizer.token_to_id(name) for name in ("<tool_call>", "[TOOL_CALLS]"))
assert tokenizer.decode([angle, square], skip_special_tokens=True) == "<tool_call>[TOOL_CALLS]"

seen = LLTokenizer(tokenizer.to_str(), eos_token=tokenizer.token_to_id("</s>"))
assert (seen.is_special_token(angle), seen.is_special_token(square)) == (True, False)


def taken(grammar: str, tokens: list[int]) -> int:
    return LLMatcher(seen, grammar, log_level=0).try_consume_tokens(tokens)


assert taken(LLMatcher.grammar_from_lark('start: "<tool_call>"'), [angle]) == 0
assert taken(LLMatcher.grammar_from_lark('start: "[TOOL_CALLS]"'), [square]) == 1
assert taken(LLMatcher.grammar_from_lark(f"start: <[{angle}]>"), [angle]) == 1
string = tokenizer.encode('"a<tool_call>b"').ids
assert taken(LLMatcher.grammar_from_json_schema('{"type": "string"}'), string) == string.index(angle)
print("as described")
PY
