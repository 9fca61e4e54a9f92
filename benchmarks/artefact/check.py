"""Is an artefact what it says? Loads it as a stranger would and compares the runtimes.

    make check-artefact OUT=build/demo/artefact

1. transformers loads it with trust_remote_code in a process where Lathe cannot be imported;
2. cached generation equals uncached, a left-padded batch of ragged prompts equals them one by one;
3. the ONNX graph gives the same logits, prompts prefilled in ragged slots and decoded in one batch.

Prints one JSON document; exit status 1 if a check fails.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

LENGTHS = (5, 17, 32, 48)
NEW_TOKENS = 24
ROUNDING = 1e-4


def stranger(artefact: Path, out: Path) -> None:
    """Runs in a child process, transformers only: saves prompts, their logits and generations."""
    sys.modules["lathe"] = None  # type: ignore[assignment]
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(artefact, trust_remote_code=True, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(2, model.config.vocab_size, (n,), generator=generator) for n in LENGTHS]
    greedy = {"do_sample": False, "max_new_tokens": NEW_TOKENS, "eos_token_id": None, "pad_token_id": 0}
    with torch.inference_mode():
        alone = [model.generate(p[None], use_cache=True, **greedy)[0] for p in prompts]
        uncached = [model.generate(p[None], use_cache=False, **greedy)[0] for p in prompts]
        width = max(LENGTHS)
        ids = torch.stack([torch.cat([torch.zeros(width - len(p), dtype=torch.int64), p]) for p in prompts])
        mask = torch.stack([(torch.arange(width) >= width - len(p)).long() for p in prompts])
        batch = model.generate(ids, attention_mask=mask, use_cache=True, **greedy)[:, width:]
        logits = [model(full[None]).logits[0].numpy() for full in alone]
    arrays = {f"tokens{i}": full.numpy() for i, full in enumerate(alone)}
    arrays |= {f"logits{i}": values for i, values in enumerate(logits)}
    arrays["cached"] = np.array([bool((a == u).all()) for a, u in zip(alone, uncached, strict=True)])
    arrays["ragged"] = np.array(
        [bool((a[-NEW_TOKENS:] == b).all()) for a, b in zip(alone, batch, strict=True)]
    )
    np.savez(out, **arrays)


def onnx_difference(artefact: Path, found: dict[str, np.ndarray]) -> float:
    """Largest difference of logits over the logits' standard deviation."""
    from lathe.artefact.onnx.runner import OnnxRunner

    runner = OnnxRunner(artefact / "onnx" / "model.onnx", max_batch=len(LENGTHS), max_length=128)
    tokens = [found[f"tokens{i}"] for i in range(len(LENGTHS))]
    rows = [[runner.prefill(i, t[:n], "all")] for i, (t, n) in enumerate(zip(tokens, LENGTHS, strict=True))]
    for step in range(NEW_TOKENS):
        new = runner.decode(np.array([t[n + step] for t, n in zip(tokens, LENGTHS, strict=True)]))
        for row, values in zip(rows, new, strict=True):
            row.append(values[None])
    expected = [found[f"logits{i}"] for i in range(len(LENGTHS))]
    return max(
        float(np.abs(np.concatenate(row) - want).max() / want.std())
        for row, want in zip(rows, expected, strict=True)
    )


def checked(artefact: Path) -> dict[str, Any]:
    """What an artefact is, by loading it in a process of its own and by its graph."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "found.npz"
        subprocess.run(
            [sys.executable, __file__, "--stranger", str(artefact.resolve()), str(out)], check=True
        )
        found = dict(np.load(out))
    difference = onnx_difference(artefact, found)
    return {
        "artefact": str(artefact),
        "loads_without_lathe": True,
        "cached_equals_uncached": bool(found["cached"].all()),
        "ragged_batch_equals_one_by_one": bool(found["ragged"].all()),
        "onnx_difference": difference,
        "onnx_within_rounding": difference < ROUNDING,
    }


def right(result: dict[str, Any]) -> bool:
    return all(value for value in result.values() if isinstance(value, bool))


def main() -> None:
    if sys.argv[1] == "--stranger":
        stranger(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    result = checked(Path(sys.argv[1]))
    print(json.dumps(result, indent=1))
    sys.exit(not right(result))


if __name__ == "__main__":
    main()
