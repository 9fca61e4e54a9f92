"""Whether an engine computes an artefact's graph as transformers computes its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lathe.artefact.errors import UserError
from lathe.artefact.onnx.graph_format import GRAPH
from lathe.compressor.compute.device import CPU
from lathe.compressor.export.gguf.parity import compare, disagree
from lathe.compressor.export.gguf.summary import read_summary
from lathe.compressor.export.onnx.rope import rotated_first
from lathe.compressor.model.cache_rounding import CacheScales, StoredKeysValues, whole_cache
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.pipeline.graph_engines import installed, run_gguf

_TOKENS = 64
_MOST = 2e-4
"""The most that logits may differ by, relative to their standard deviation."""
_HALF_CODE = 0.55
"""The most that a code of the KV cache may be off: a half, and what float32 differs by."""


def check_parity(
    model: Any,
    artefact: Path,
    window: torch.Tensor,
    source: Checkpoint,
    scales: Mapping[int, CacheScales] | None,
) -> float:
    """Returns the largest difference of the runtimes' logits, relative to their standard deviation.

    A subnet may cancel most of the residual stream at a position, where float32 itself is then off by more
    than engines usually differ by. Such a position may differ by as much (`disagree`).

    Where the graph's KV cache is int8, transformers reads the codes that ONNX Runtime stored, and each must
    be nearest to what transformers would have stored.

    Args:
        model: The artefact's checkpoint, as transformers calls it.
        artefact: Its directory.
        window: Tokens, of which the first 64 are read.
        source: The dense model.
        scales: Those of an int8 KV cache, by layer.

    Raises:
        UserError: logits or codes differ too much.
    """
    tokens = window[:_TOKENS]
    logits, codes = _run_graph(artefact / GRAPH, tokens.numpy())
    caches = _stored(source, scales, codes) if scales else {}
    expected = _run_model(model, tokens, caches)
    differences = np.abs(logits - expected).max(1) / expected.std()
    difference = float(differences.max())
    if disagree(differences, _MOST, partial(_float32_rounding, model, tokens, caches, expected)):
        raise UserError(f"ONNX Runtime and transformers disagree by {difference:.2g} of the logits' spread")
    if (distance := max((cache.distance for cache in caches.values()), default=0.0)) > _HALF_CODE:
        raise UserError(
            f"ONNX Runtime's KV cache is off by {distance:.2g} codes, where half a one is rounding"
        )
    return difference


def check_gguf_parity(model: Any, artefact: Path, window: torch.Tensor, source: Checkpoint) -> float | None:
    """Returns the largest difference of the logits of transformers and llama.cpp, as `check_parity`.

    In types in which llama.cpp rounds activations, too, the bound is one of the mean. None: llama.cpp is not
    installed.

    Args:
        model: The artefact's checkpoint, as transformers calls it.
        artefact: Its directory.
        window: Tokens, of which the first 64 are read, or fewer where the file has fewer positions.
        source: The dense model.

    Raises:
        UserError: logits differ too much.
    """
    if not installed("gguf"):
        return None
    windows = [size for size in source.config.get("windows") or () if size]
    tokens = window[: min([_TOKENS, *windows])]
    found, expected = run_gguf(artefact, tokens.numpy()), _run_model(model, tokens, {})
    types, rounding = read_summary(artefact)["types"], partial(_float32_rounding, model, tokens, {}, expected)
    return float(compare(found, expected, types, source.config, rounding)["largest"])


def _run_graph(graph: Path, tokens: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns the logits after a prompt and after each token that follows it, and all caches."""
    from lathe.artefact.onnx.runner import OnnxRunner

    runner, half = OnnxRunner(graph, max_batch=1, max_length=len(tokens)), len(tokens) // 2
    rows = [runner.prefill(0, tokens[:half], "all")]
    rows += [runner.decode(token[None]) for token in tokens[half:]]
    return np.concatenate(rows), runner.copy_kv(0, 0, len(tokens))[2]


def _stored(
    source: Checkpoint, scales: Mapping[int, CacheScales], codes: list[np.ndarray]
) -> dict[int, StoredKeysValues]:
    """Returns the caches that a graph filled, keys and values of one layer after the other, by layer."""
    order = rotated_first(source.config, source.shape.head_dim)
    both = [torch.from_numpy(part) for part in codes]
    keys = both[::2] if order is None else [part[..., order.argsort()] for part in both[::2]]
    return {
        index: StoredKeysValues(each, pair)
        for (index, each), pair in zip(scales.items(), zip(keys, both[1::2], strict=True), strict=True)
    }


@torch.inference_mode()
def _run_model(model: Any, tokens: torch.Tensor, caches: Mapping[int, StoredKeysValues]) -> np.ndarray:
    """Returns the logits [T, V] of the checkpoint, which reads these caches where there are some."""
    reading: dict[str, Any] = {}
    if caches:
        layered = isinstance(model, LayeredModel)
        reading = {"caches": caches} if layered else whole_cache([*caches.values()])
    found: np.ndarray = model(input_ids=tokens[None], **reading).logits[0].to(CPU).numpy()
    return found


def _float32_rounding(
    model: Any, tokens: torch.Tensor, caches: Mapping[int, StoredKeysValues], expected: np.ndarray
) -> np.ndarray:
    """Returns how far the model's logits are from those in float64, the largest difference by position [S].

    It is relative to the logits' standard deviation; 0 for a model that is read layer by layer.
    """
    if not isinstance(model, torch.nn.Module) or caches:
        return np.zeros(len(tokens))
    exact = _run_model(model.double(), tokens, {})
    model.float()
    return np.abs(expected - exact).max(1) / expected.std()
