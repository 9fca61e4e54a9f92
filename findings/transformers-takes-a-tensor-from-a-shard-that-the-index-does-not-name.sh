#!/bin/sh
# Guess: `weight_map` in model.safetensors.index.json says which file each tensor is read from; it is what the map is for.
# Version: transformers 5.24.0, accelerate 1.15.0, safetensors 0.8.
# Behaviour: the map only says which files there are. All tensors of all of them are read, in the order of the files' names, and of two
#   with the same name the last counts: the one that the map does not name, if its file comes later. So a shard that was replaced
#   in part, or that keeps a tensor which was moved to another, silently gives the old values back. No warning, nothing unexpected
#   or mismatched in the loading info. accelerate's `load_checkpoint_in_model` does the same.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 transformers==5.24.0 accelerate==1.15.0 numpy==2.4.6
"$here/venv/bin/python" - "$here" <<'PY' 2>/dev/null
import json
import sys
from pathlib import Path

import torch
from accelerate import load_checkpoint_in_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

NORM, HEAD = "model.norm.weight", "lm_head.weight"
folder = Path(sys.argv[1]) / "model"
config = LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2
)
LlamaForCausalLM(config).save_pretrained(folder)
tensors = load_file(folder / "model.safetensors")
(folder / "model.safetensors").unlink()


def written(newer, older):
    """Writes two shards: `newer` has the norm that the map names, 2.0; `older` the head, and a norm of 3.0."""
    for file in folder.glob("*.safetensors"):
        file.unlink()
    own = {name: value for name, value in tensors.items() if name != HEAD} | {NORM: torch.full((16,), 2.0)}
    save_file(own, folder / newer, metadata={"format": "pt"})
    save_file({HEAD: tensors[HEAD], NORM: torch.full((16,), 3.0)}, folder / older, metadata={"format": "pt"})
    places = dict.fromkeys(own, newer) | {HEAD: older}
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    model, info = LlamaForCausalLM.from_pretrained(folder, output_loading_info=True)
    other = LlamaForCausalLM(config)
    load_checkpoint_in_model(other, str(folder / "model.safetensors.index.json"))
    found = [float(each.model.norm.weight[0]) for each in (model, other)]
    print(f"the map names {newer}, 2.0: transformers {found[0]}, accelerate {found[1]}; told: {sum(map(len, info.values()))}")
    return (*found, sum(map(len, info.values())))


last = written("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
first = written("model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors")
sys.exit(0 if last == (3.0, 3.0, 0) and first == (2.0, 2.0, 0) else 1)
PY
