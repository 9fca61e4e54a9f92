"""Whether llama.cpp computes a file as Lathe computes the values that the file holds.

Shapes: S tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lathe.artefact.checkpoint_config import max_positions
from lathe.artefact.errors import UserError
from lathe.compressor.export.base import Export
from lathe.compressor.export.gguf.stored_values import StoredValues
from lathe.compressor.model.block_runner import BlockRunner
from lathe.compressor.model.embedding import embedding
from lathe.compressor.model.lm_head import LMHead
from lathe.compressor.model.names import EMBEDDING, FINAL_NORM, LM_HEAD, layer_prefix

_TOKENS = 32
_STEP = 7919
"""A prime: multiples of it are tokens from all over a vocabulary."""
_MOST = {"F32": 2e-4, "F16": 5e-2, "BF16": 0.1}
_MOST_QUANTIZED = 0.5
"""The most that logits may be off. llama.cpp rounds activations to what weights are multiplied in: a pruned
SmolLM2-135M that was not healed is off by 0.03 in BF16 and by 0.24 in Q8_0. A wrong order of rows gives 1."""
_ROUNDINGS = 4
"""Two engines may differ by so many times what one of them is off by because of float32."""
_GELU = 5e-3
"""The same in float32 where its GELU is a table of float16 values."""


def check_parity(path: Path, job: Export) -> dict[str, Any] | None:
    """Returns how far llama.cpp's logits are from ours; None where llama.cpp is not installed.

    Flash attention is off, and keys and values are float32.

    Raises:
        UserError: as `compare`.
    """
    if find_spec("llama_cpp") is None:
        return None
    source, values = job.source, StoredValues(path, job)
    windows = [window for window in source.config.get("windows") or () if window]
    count = min(_TOKENS, max_positions(source.config), *windows)
    tokens = torch.arange(1, count + 1) * _STEP % source.shape.vocab_size
    expected = reference_logits(values, job, tokens).numpy()
    return compare(_run(path, tokens.numpy()), expected, values.types, source.config)


def compare(
    found: np.ndarray[Any, Any],
    expected: np.ndarray[Any, Any],
    types: Collection[str],
    config: Mapping[str, Any],
    rounding: Callable[[], np.ndarray[Any, Any]] | None = None,
) -> dict[str, Any]:
    """Returns how far llama.cpp's logits [S, V] are from a reference's.

    Differences are the root mean square and the largest, relative to the logits' standard deviation. What
    counts is the largest in float32, and the mean in types that round activations, too.

    Args:
        found: llama.cpp's.
        expected: The reference's.
        types: The types in the file.
        config: The dense model's, as one of ours.
        rounding: As in `disagree`.

    Raises:
        UserError: They are too far apart.
    """
    difference, spread = found - expected, float(expected.std())
    rms = float(np.sqrt(np.square(difference).mean())) / spread
    largest, exact = float(np.abs(difference).max()) / spread, {*types} == {"F32"}
    most = max(_MOST.get(kind, _MOST_QUANTIZED) for kind in types)
    if exact and config.get("hidden_act", "silu") != "silu":
        most = _GELU
    positions = np.abs(difference).max(1) / spread
    if disagree(positions, most, rounding) if exact else not rms <= most:
        raise UserError(
            f"llama.cpp and the reference disagree by {rms:.2g} of the logits' spread, up to {largest:.2g}",
            "Use llama-cpp-python 0.3.36, or report it with the model's config.json.",
        )
    return {"tokens": len(found), "rms": rms, "largest": largest, "allowed": most}


def disagree(
    differences: np.ndarray[Any, Any],
    most: float,
    rounding: Callable[[], np.ndarray[Any, Any]] | None = None,
) -> bool:
    """Tells whether two engines differ by more than engines may, at any position [S].

    Args:
        differences: By how much, relative to the logits' spread, [S].
        most: What they may differ by in any case.
        rounding: Returns how far one of them is from float64, likewise, [S]; asked for where that matters.
    """
    if (differences <= most).all():
        return False
    return rounding is None or not (differences <= np.maximum(most, _ROUNDINGS * rounding())).all()


def _run(path: Path, tokens: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Returns llama.cpp's logits [S, V]."""
    from lathe.artefact.llamacpp.runner import LlamaCppRunner

    return LlamaCppRunner(path, max_batch=1, max_length=len(tokens), cache="f32").prefill(0, tokens, "all")


@torch.inference_mode()
def reference_logits(values: StoredValues, job: Export, tokens: torch.Tensor) -> torch.Tensor:
    """Returns our logits [S, V] after tokens [S], of the values in a file; a layer at a time is in memory."""
    source, runner = job.source, BlockRunner(job.source)
    table = values(f"{EMBEDDING}.weight")
    hidden = embedding(source, table)[tokens[None]]
    for index in range(len(job.plan)):
        prefix = layer_prefix(index)
        own = [name for name in values.names if name.startswith(prefix)]
        weights = {name.removeprefix(prefix): values(name) for name in own}
        hidden = runner.at(index).layer(weights, hidden)
    if not source.shape.tied_embeddings:
        table = values(f"{LM_HEAD}.weight")
    norm = {"weight": values(f"{FINAL_NORM}.weight")}
    return LMHead(runner, norm, table, source.config.get("final_logit_softcapping")).logits(hidden)[0]
