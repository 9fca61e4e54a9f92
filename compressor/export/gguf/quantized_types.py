"""Quantized types of llama.cpp, rounded to nearest as llama.cpp rounds; and what does not fit one.

Shapes: R rows, C columns of a matrix.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lathe.artefact.errors import UserError
from lathe.artefact.llamacpp.library import INSTALL, llama_cpp
from lathe.compressor.export.gguf.tensors import FileTensor
from lathe.compressor.export.gguf.types import FLOATS, Encoded, Rows, Value, as_floats
from lathe.compressor.model.rounding import QuantizedMatrix

BY_PACKAGE = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
"""Types that the package `gguf` quantizes to."""
BY_LLAMA_CPP = ("Q6_K", "Q5_K", "Q4_K")
"""Types that llama.cpp's own function quantizes to."""
_FALLBACKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""What llama.cpp takes where 256 does not divide a row (`tensor_type_fallback`)."""
_UNFITTING = "F16"
"""What it takes where 32 does not either."""
_FILE_TYPES = {"Q6_K": "MOSTLY_Q6_K", "Q5_K": "MOSTLY_Q5_K_S", "Q4_K": "MOSTLY_Q4_K_S"}
TABLES = ("token_embd.weight", "output.weight")
_AT_ONCE = 2**21
"""Values that are quantized together: temporaries stay small."""


def fitting(kind: str, columns: int) -> str:
    """Returns a type that a row fits: the given one, else what llama.cpp falls back to."""
    import gguf

    while columns % gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0]:
        kind = _FALLBACKS.get(kind, _UNFITTING)
    return kind


def table_kind(kind: str) -> str:
    """Returns the type of embedding and head, in which rounding costs the most: 8 bits, with k-quants 6."""
    return "Q6_K" if kind in BY_LLAMA_CPP else "Q8_0"


def check_quantizes(kind: str) -> None:
    """Checks that what quantizes to a type is installed.

    Raises:
        UserError: It is not, with the command that installs it.
    """
    if kind in BY_LLAMA_CPP:
        try:
            llama_cpp()
        except UserError as error:
            raise UserError(f"{kind} is quantized by llama.cpp itself, and {error.args[0]}") from None


@dataclass(frozen=True)
class QuantizedTypes:
    """All matrices in one type, embedding and head in `table_kind`; what fits neither falls back."""

    kind: str

    @property
    def metadata(self) -> dict[str, Any]:
        """What the file says of its types."""
        import gguf

        name = _FILE_TYPES.get(self.kind, f"MOSTLY_{self.kind}")
        return {"general.file_type": int(gguf.LlamaFileType[name]), **QUANTIZED}

    def of(self, tensor: FileTensor) -> str:
        """Returns the type of a tensor."""
        if len(tensor.dims) < 2:
            return "F32"
        kind = table_kind(self.kind) if tensor.name in TABLES else self.kind
        return fitting(kind, tensor.dims[1])

    def encode(self, tensor: FileTensor, value: Value, kind: str) -> Encoded:
        """Stores rows of a tensor in a type.

        Raises:
            UserError: Values are beyond the range of float16.
        """
        if kind in FLOATS:
            return Encoded(as_floats(tensor.name, value, kind))
        values = value.values if isinstance(value, QuantizedMatrix) else value
        return quantize(values.numpy(), kind)


QUANTIZED = {"general.quantization_version": 2}
"""What a file says that has quantized types."""


def quantize(values: Rows, kind: str) -> Encoded:
    """Quantizes float32 values [R, C] to nearest, some rows at a time."""
    import gguf

    number = gguf.GGMLQuantizationType[kind]
    rows, squares, norm = [], 0.0, 0.0
    for part in _chunks(np.ascontiguousarray(values)):
        rows.append(_quantized(part, number, kind))
        squares += float(np.square(gguf.dequantize(rows[-1], number) - part, dtype=np.float64).sum())
        norm += float(np.square(part, dtype=np.float64).sum())
    return Encoded(np.concatenate(rows), float(np.sqrt(squares / norm)) if norm else 0.0)


def _chunks(values: Rows) -> Iterator[Rows]:
    some = max(1, _AT_ONCE // values.shape[1])
    return (values[first : first + some] for first in range(0, len(values), some))


def _quantized(values: Rows, number: Any, kind: str) -> Rows:
    import gguf

    if kind in BY_PACKAGE:
        return np.asarray(gguf.quantize(values, number))
    found = np.empty((len(values), gguf.quant_shape_to_byte_shape(values.shape, number)[1]), np.uint8)
    written = _own_function()(
        int(number), values.ctypes.data, found.ctypes.data, 0, len(values), values.shape[1], None
    )
    if written != found.nbytes:
        raise UserError(
            f"llama.cpp quantized {written} of {found.nbytes} bytes to {kind}", f"{INSTALL} again."
        )
    return found


def _own_function() -> Callable[..., int]:
    """Returns llama.cpp's `ggml_quantize_chunk`, which llama-cpp-python builds and does not declare."""
    llama_cpp()
    from llama_cpp._ggml import libggml

    function = libggml.ggml_quantize_chunk
    integer, pointer = ctypes.c_int64, ctypes.c_void_p
    function.argtypes = [ctypes.c_int, pointer, pointer, integer, integer, integer, pointer]
    function.restype = ctypes.c_size_t
    return function
