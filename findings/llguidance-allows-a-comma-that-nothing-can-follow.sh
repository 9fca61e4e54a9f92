#!/usr/bin/env bash
# llguidance 1.9.1, JSON schemas with patternProperties whose keys are all named in `required`.
#
# Guess: with {"patternProperties": {"^k$": ...}, "required": ["k"], "additionalProperties": false} the mask after
#   {"k":0 leaves `}` and white space only, since no other key is possible; whatever is allowed can be finished.
# Seen: a comma is allowed, too, and after it nothing but white space: the document can never be finished, although
#   every token was allowed by compute_bitmask. With a limit on white space the mask ends in NoExtensionBias.
# Exits 0 while that is so, and 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install llguidance==1.9.1 tokenizers==0.23.3 numpy==2.3.4
cat > "$folder/probe.py" <<'PY'
import json
import sys

import llguidance
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

letters = sorted(pre_tokenizers.ByteLevel.alphabet())
vocabulary = {"</s>": 0} | {letter: i + 1 for i, letter in enumerate(letters)}
fast = Tokenizer(models.BPE(vocabulary, []))
fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
fast.decoder = decoders.ByteLevel()
tokens = llguidance.LLTokenizer(fast.to_str(), n_vocab=len(vocabulary), eos_token=[0])
schema = {
    "type": "object",
    "patternProperties": {"^k$": {"type": "integer"}},
    "required": ["k"],
    "additionalProperties": False,
}
matcher = llguidance.LLMatcher(tokens, llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema)))


def allowed() -> set[str]:
    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
    return {fast.decode([int(token)]) for token in np.flatnonzero(bits[: len(vocabulary)])}


for token in fast.encode('{"k":0').ids:
    matcher.consume_token(token)
comma = "," in allowed()
matcher.consume_token(fast.encode(",").ids[0])
after = {character for character in allowed() if character.strip()}
print("a comma is allowed:", comma, "- then, but for white space:", sorted(after), "-", matcher.get_error().strip()[:60])
sys.exit(0 if comma and not after else 1)
PY
"$folder/venv/bin/python" "$folder/probe.py"
