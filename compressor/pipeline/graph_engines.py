"""Engines that run the graph of a run on this machine, to check and to score it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from lathe.artefact.gguf_suffix import MODEL_FILE
from lathe.compressor.evaluate.engine_model import EngineModel
from lathe.compressor.evaluate.llamacpp import LlamaCppModel
from lathe.compressor.evaluate.onnx import OnnxModel
from lathe.compressor.export.base import Exporter

ENGINES = {"onnx": "ONNX Runtime", "gguf": "llama.cpp"}
"""Their names by `Exporter.graph`."""


def installed(kind: str) -> bool:
    """Returns whether the engine of a kind of graph is on this machine."""
    return kind != "gguf" or find_spec("llama_cpp") is not None


def graph_model(exporter: Exporter, artefact: Path) -> EngineModel:
    """Returns the graph of an artefact as a model to score."""
    return LlamaCppModel(artefact / MODEL_FILE) if exporter.graph == "gguf" else OnnxModel(artefact)


def run_gguf(artefact: Path, tokens: np.ndarray) -> np.ndarray:
    """Returns the logits after a prompt and after each token that follows it, by llama.cpp.

    Flash attention is off, and keys and values are float32.

    Raises:
        UserError: it cannot load the file.
    """
    from lathe.artefact.llamacpp.runner import LlamaCppRunner

    runner = LlamaCppRunner(artefact / MODEL_FILE, max_batch=1, max_length=len(tokens), cache="f32")
    half = len(tokens) // 2
    rows = [runner.prefill(0, tokens[:half], "all")]
    rows += [runner.decode(token[None]) for token in tokens[half:]]
    return np.concatenate(rows)
