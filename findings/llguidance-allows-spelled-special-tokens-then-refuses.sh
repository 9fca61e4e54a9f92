#!/bin/sh
# Guess: a grammar that allows one string, say const "<think>", lets a model write it, token by token.
# llguidance 1.9.1: text that the grammar forces is tokenized with the model's own tokenizer, in which
# "<think>" is an added token. The mask then allows that token alone, and consume_token refuses it ("doesn't
# satisfy the grammar; forced bytes: got '<'; applying 0xFF"), since the token is taken for a special one.
# Exits 1 if that changes.
set -e
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q llguidance==1.9.1 tokenizers==0.22.1 numpy
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import llguidance
import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

alphabet = pre_tokenizers.ByteLevel.alphabet()
fast = Tokenizer(models.BPE({piece: i for i, piece in enumerate(sorted(alphabet))}, []))
fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
fast.add_special_tokens(["</s>"])
fast.add_tokens([AddedToken("<think>", normalized=False)])
end, think = fast.token_to_id("</s>"), fast.token_to_id("<think>")
tokens = llguidance.LLTokenizer(fast.to_str(), n_vocab=think + 1, eos_token=[end])
grammar = llguidance.LLMatcher.grammar_from_json_schema({"const": "<think>"})
matcher = llguidance.LLMatcher(tokens, grammar, log_level=0)
said = []
while not matcher.is_stopped():
    mask = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
    allowed = np.flatnonzero(mask[: think + 1]).tolist()
    said.append(fast.id_to_token(allowed[0]))
    matcher.consume_token(allowed[0])
    if matcher.is_error():
        print("allowed, then refused:", said, matcher.get_error().splitlines()[0])
        assert allowed == [think]
        break
else:
    raise SystemExit(f"the behaviour has changed: {said}")
PYTHON
