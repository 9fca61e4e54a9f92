"""GGUF files as people use them: quantized by llama.cpp itself, without calibration text."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from gguf import GGUFReader

from lathe.artefact.errors import UserError
from lathe.artefact.large_writes import PIECE
from lathe.artefact.llamacpp.library import explanation, llama_cpp

_BITS_OF_BYTE = 8


def quantize_gguf(source: Path, target: Path, kind: str) -> None:
    """Quantizes a file as `llama-quantize` does with this type and no other options.

    Raises:
        UserError: llama.cpp is not installed, or refuses.
    """
    api = llama_cpp()
    options = api.llama_model_quantize_default_params()
    options.ftype = getattr(api, f"LLAMA_FTYPE_MOSTLY_{kind}")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".part")
    if api.llama_model_quantize(str(source).encode(), str(partial).encode(), options):
        raise UserError(f"llama.cpp cannot quantize {source} to {kind}: {explanation()}")
    _rewrite(partial, target)
    partial.unlink()


def _rewrite(source: Path, target: Path) -> None:
    """Writes a file once more, in large pieces.

    llama.cpp quantizes in small writes, which decoding suffers from (`artefact/large_writes.py`).
    """
    with source.open("rb") as whole, target.open("wb", buffering=0) as file:
        while part := whole.read(PIECE):
            file.write(part)


def weight_bytes(file: Path) -> int:
    """Returns the bytes of all tensors."""
    return sum(int(tensor.n_bytes) for tensor in GGUFReader(file).tensors)


def gguf_facts(file: Path) -> dict[str, Any]:
    """Returns what a row says of a file; `types` counts its matrices by type.

    `mean_bits` has scales in it: blocks of k-quants have them at two depths.
    """
    matrices = [tensor for tensor in GGUFReader(file).tensors if len(tensor.shape) > 1]
    decoder = [tensor for tensor in matrices if tensor.name.startswith("blk.")]
    bits = _BITS_OF_BYTE * sum(int(tensor.n_bytes) for tensor in decoder)
    return {
        "types": dict(Counter(tensor.tensor_type.name for tensor in matrices)),
        "mean_bits": bits / sum(int(tensor.n_elements) for tensor in decoder),
        "decoder_parameters_kept": 1.0,
    }
