#!/bin/sh
# Guess: compiling a decoder layer by layer (`layer.compile()`, regional compilation) compiles every layer; layers of different
#   widths take a compilation each where equal layers share one.
# Version: torch 2.13.0.
# Behaviour: layers share one code object, and all that is compiled for it counts towards one limit of 8. Numbers of heads and
#   shapes of parameters are constants of a compilation, and so is the first length of the input: a prompt and a decoded token
#   are two. So with four widths the limit is used up by the first decoded token, and of 30 layers of 30 widths 8 are compiled
#   for prompts and none for decoding. The rest runs as if it had not been compiled, after one warning that names one guard.
#   With `torch._dynamo.config.recompile_limit` above twice the number of widths, all are. The whole model compiled as one has
#   two compilations, whatever its widths, and equal layers have two between them.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$here/venv/bin/python" - <<'PY' 2>/dev/null
import sys

import torch
import torch._dynamo as dynamo
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


class Layer(nn.Module):
    def __init__(self, heads, channels, size=32, head_size=8):
        super().__init__()
        self.heads, self.head_size = heads, head_size
        self.query, self.output = nn.Linear(size, heads * head_size), nn.Linear(heads * head_size, size)
        self.up, self.down = nn.Linear(size, channels), nn.Linear(channels, size)

    def forward(self, hidden):
        query = self.query(hidden).view(*hidden.shape[:2], self.heads, self.head_size).transpose(1, 2)
        attended = scaled_dot_product_attention(query, query, query, is_causal=True)
        hidden = hidden + self.output(attended.transpose(1, 2).flatten(2))
        return hidden + self.down(torch.relu(self.up(hidden)))


class Model(nn.Module):
    def __init__(self, widths):
        super().__init__()
        self.layers = nn.ModuleList(Layer(1 + width % 9, 64 + 8 * width) for width in widths)

    def forward(self, hidden):
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


def compilations(widths, whole=False, limit=8):
    """Returns how many graphs exist after a prompt, and how many more after a token."""
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    dynamo.reset()
    model = Model(widths)
    for module in [model] if whole else model.layers:
        module.compile(backend=backend)
    counts = []
    with torch.no_grad(), dynamo.config.patch(recompile_limit=limit):
        for length in (16, 1):
            model(torch.randn(1, length, 32))
            counts.append(len(graphs))
    return counts[0], counts[1] - counts[0]


seen = {
    "30 equal layers": compilations([3] * 30),
    "4 layers of 4 widths": compilations(range(4)),
    "6 layers of 6 widths": compilations(range(6)),
    "30 layers of 30 widths": compilations(range(30)),
    "30 layers of 30 widths, limit 64": compilations(range(30), limit=64),
    "30 layers of 30 widths as one model": compilations(range(30), whole=True),
}
for case, (prompt, token) in seen.items():
    print(f"{case}: {prompt} compilations for a prompt, {token} more for a token")
sys.exit([*seen.values()] != [(1, 1), (4, 4), (6, 2), (8, 0), (30, 30), (1, 1)])
PY
