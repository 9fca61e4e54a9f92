#!/bin/sh
# Guess: transformers renames an argument of `forward` with a shim, so a model class of one's own that overrides
#   forward(input_ids, ..., past_key_values=None, **kwargs), as remote code does, goes on working or fails with an error.
# Version: transformers 5.24.0 (torch 2.13.0), which renamed `past_key_values` to `cache`; 5.23.0 beside it.
# Behaviour: the stock LlamaForCausalLM hands `cache=` to the overridden forward, where it lands in **kwargs and is not
#   used. Nothing is raised. A prompt read in two pieces over one cache gives other logits than the prompt in one piece.
# Seen: 5.23.0 difference 0.00e+00 to 1e-6; 5.24.0 difference above 0.1.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
cat > "$here/run.py" <<'PY'
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel


class Wrapped(LlamaModel):
    """Adds nothing: passes on what it declares, as code written for 5.23 does."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None,
                inputs_embeds=None, use_cache=None, **kwargs):
        kwargs.pop("cache", None)  # what a forward of one's own does with a keyword that it does not know
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
                               past_key_values=past_key_values, inputs_embeds=inputs_embeds, use_cache=use_cache)


torch.manual_seed(0)
config = LlamaConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
                     num_key_value_heads=2, vocab_size=200, initializer_range=0.2)
model = LlamaForCausalLM(config).eval()
model.model.__class__ = Wrapped
ids = torch.arange(20)[None] * 7 % 200
with torch.no_grad():
    whole = model(ids).logits
    first = model(ids[:, :9], use_cache=True)
    second = model(ids[:, 9:], past_key_values=first.past_key_values, use_cache=True)
print(float((whole - torch.cat([first.logits, second.logits], 1)).abs().max()))
PY
for version in 5.23.0 5.24.0; do
  python3 -m venv "$here/$version"
  "$here/$version/bin/pip" install -q --disable-pip-version-check torch==2.13.0 "transformers==$version"
  "$here/$version/bin/python" -W ignore "$here/run.py" > "$here/$version.out"
  echo "transformers $version: largest difference of logits $(cat "$here/$version.out")"
done
python3 - "$here" <<'PY'
import sys
old, new = (float(open(f"{sys.argv[1]}/{v}.out").read()) for v in ("5.23.0", "5.24.0"))
sys.exit(not (old < 1e-4 and new > 0.01))
PY
