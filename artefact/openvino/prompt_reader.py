"""Reads prompts in OpenVINO, for ONNX Runtime to go on from.

On most processors OpenVINO computes products of many rows faster than ONNX Runtime, most of all in bfloat16
and of rounded weights, and products of one row more slowly. So prompts are read here and answers are decoded
there, over one KV cache. OpenVINO repacks the weights for its kernels: they are in memory twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lathe.artefact.errors import UserError
from lathe.artefact.openvino.library import openvino

STEP = 32
"""Pieces are filled up to multiples of so many tokens: OpenVINO builds kernels for every new length."""
_PAST, _PRESENT = "past_key_values", "present"


class OpenVinoReader:
    """A `PromptReader`: the graph as OpenVINO compiles it.

    Pieces are filled up with zeros behind their tokens, which see them as little as any later token.

    Attributes:
        least: reads no fewer tokens at a time.
    """

    least = 1

    def __init__(self, graph: Path, positions: int, threads: int | None, *, half: bool) -> None:
        """Compiles the graph; takes seconds, and the memory of a second copy of the weights.

        Args:
            graph: a graph of Lathe's exporter, its data file beside it.
            positions: of the model.
            threads: of the processor; None: OpenVINO's choice.
            half: whether it computes in bfloat16, not in float32. With rounded weights either rounds the
                inputs of products to 8 bits, as ONNX Runtime does.

        Raises:
            UserError: OpenVINO is not installed, or does not run this graph.
        """
        api = openvino()
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
            "NUM_STREAMS": "1",
            "ENABLE_CPU_PINNING": "NO",
        }
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        try:
            core = api.Core()
            compiled = core.compile_model(core.read_model(graph), "CPU", settings)
        except RuntimeError as error:
            raise UserError(
                f"OpenVINO cannot run {graph}: {_reason(error)}", "Give --prompts onnxruntime."
            ) from None
        self._positions = positions
        self._request = compiled.create_infer_request()

    def takes(self, past: int, count: int) -> bool:
        """Returns whether there are enough tokens, and positions to fill them up."""
        return count >= self.least and past + filled(count) <= self._positions

    def read(
        self, tokens: np.ndarray, past: int, caches: Mapping[str, np.ndarray], wanted: np.ndarray
    ) -> np.ndarray:
        """Appends tokens to a slot: see `PromptReader`."""
        count = len(tokens)
        ids = np.zeros((1, filled(count)), np.int64)
        ids[0, :count] = tokens
        stop = past + ids.shape[1]
        feeds = {
            "input_ids": ids,
            "seqlens_k": np.array([stop - 1], np.int32),
            "total_sequence_length": np.array(stop, np.int32),
            "logits_at": np.stack([np.zeros_like(wanted), wanted], axis=1),
            **caches,
        }
        found = self._request.infer(feeds, share_inputs=True, share_outputs=True)
        logits = np.empty(0, np.float32)
        for port, value in found.items():
            name = port.get_any_name()
            if name.startswith(_PRESENT):
                cache = caches[name.replace(_PRESENT, _PAST)]
                cache[:, :, past : past + count] = value[:, :, past : past + count]
            else:
                logits = value.copy()
        return logits


def filled(count: int) -> int:
    """Returns the length that a piece of so many tokens is filled up to."""
    return -(-count // STEP) * STEP


def _reason(error: RuntimeError) -> str:
    lines = [line.strip("- ") for line in str(error).splitlines() if line.strip("- ")]
    return next((line for line in lines if "No conversion rule" in line), lines[-1] if lines else "no reason")
