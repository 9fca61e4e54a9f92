"""A GGUF file as a model to score in llama.cpp, as it is served, quantization included."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lathe.compressor.evaluate.engine_model import EngineModel

if TYPE_CHECKING:
    from lathe.artefact.llamacpp.runner import LlamaCppRunner


class LlamaCppModel(EngineModel):
    """A file in llama.cpp, with as many threads as PyTorch has; keys and values are float32."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def open(self, length: int) -> LlamaCppRunner:
        from lathe.artefact.llamacpp.runner import LlamaCppRunner

        threads = torch.get_num_threads()
        return LlamaCppRunner(self._file, max_batch=1, max_length=length, threads=threads, cache="f32")
