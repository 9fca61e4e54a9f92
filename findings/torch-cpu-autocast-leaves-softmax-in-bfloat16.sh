#!/bin/sh
# Guess: under `torch.autocast` products are rough and what follows them is not: softmax, log_softmax, logsumexp, exp, sums and
#   norms run in float32, as the CUDA lists say, so a KL divergence between two models may be computed inside of it.
# Version: torch 2.13.0.
# Behaviour: the lists of the processor are others. With device type "cpu", softmax, log_softmax, logsumexp, exp, sum and
#   layer_norm of a bfloat16 product stay in bfloat16; of the losses, nll_loss, kl_div and mse_loss go to float32, but read
#   what was rounded before. Probabilities of a vocabulary of 49,152 tokens do not sum to 1, and a small KL divergence (0.0012
#   nats per token here) comes out as anything from 0.4 to 2.5 times that. `.float()` on the logits sets it right.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$here/venv/bin/python" - <<'PY'
import sys
import torch
import torch.nn.functional as F

def divergence(p, q):
    p, q = F.log_softmax(p, -1), F.log_softmax(q, -1)
    return float((p.exp() * (p - q)).sum(-1).mean()), p.exp().float().sum(-1)

right = []
for seed in range(6):
    torch.manual_seed(seed)
    hidden, head = torch.randn(64, 256), torch.randn(256, 49152) / 8
    other = hidden + 0.025 * torch.randn(64, 256)
    exact, _ = divergence(hidden @ head, other @ head)
    with torch.autocast("cpu", torch.bfloat16):
        p, q = hidden @ head, other @ head
        inside, sums = divergence(p, q)
        raised, _ = divergence(p.float(), q.float())
    right.append((abs(inside - exact) < 0.2 * exact, abs(raised - exact) < 0.2 * exact))
    print(
        f"KL divergence in float32 {exact:.5f}, of the same rough logits raised to float32 {raised:.5f}, inside "
        f"{inside:.5f}; probabilities sum to {float(sums.min()):.3f} to {float(sums.max()):.3f}"
    )
with torch.autocast("cpu", torch.bfloat16):
    dtypes = {f.__name__: f(p, -1).dtype for f in (torch.softmax, torch.log_softmax, torch.logsumexp)}
    dtypes |= {"exp": p.exp().dtype, "sum": p.sum(-1).dtype, "layer_norm": F.layer_norm(p, p.shape[-1:]).dtype}
print("under autocast on the processor:", {name: str(dtype) for name, dtype in dtypes.items()})
inside, raised = zip(*right)
sys.exit(not (all(raised) and not all(inside) and set(dtypes.values()) == {torch.bfloat16}))
PY
