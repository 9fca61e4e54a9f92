"""The types that the tensors of a GGUF file are stored in.

Shapes: R rows, C columns of a matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from lathe.artefact.errors import UserError
from lathe.compressor.export.gguf.tensors import FileTensor
from lathe.compressor.model.rounding import QuantizedMatrix

Rows = np.ndarray[Any, np.dtype[Any]]
Value = torch.Tensor | QuantizedMatrix
FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types without blocks."""
_FILE_TYPES = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16"}


@dataclass(frozen=True)
class Encoded:
    """Rows as they are stored.

    Attributes:
        rows: Bytes, or numbers of a float type, [R, ...].
        error: The norm of the difference over that of the matrix; None where nothing was quantized.
    """

    rows: Rows
    error: float | None = None


class Types(Protocol):
    """The types of a file's tensors."""

    @property
    def metadata(self) -> dict[str, Any]:
        """What the file says of them."""

    def of(self, tensor: FileTensor) -> str:
        """Returns the type of a tensor by its name in the package `gguf`, such as `Q8_0`."""

    def encode(self, tensor: FileTensor, value: Value, kind: str) -> Encoded:
        """Stores rows of a tensor in a type.

        Raises:
            UserError: Their values do not fit it.
        """


@dataclass(frozen=True)
class FloatTypes:
    """All matrices in one float type; vectors are F32, which llama.cpp wants."""

    kind: str

    @property
    def metadata(self) -> dict[str, Any]:
        """What the file says of its types."""
        import gguf

        return {"general.file_type": int(gguf.LlamaFileType[_FILE_TYPES[self.kind]])}

    def of(self, tensor: FileTensor) -> str:
        """Returns the type of a tensor."""
        return self.kind if len(tensor.dims) > 1 else "F32"

    def encode(self, tensor: FileTensor, value: Value, kind: str) -> Encoded:
        """Stores rows of a tensor in a float type.

        Raises:
            UserError: Values are beyond its range.
        """
        return Encoded(as_floats(tensor.name, value, kind))


def as_floats(name: str, value: Value, kind: str) -> Rows:
    """Returns values [R, C] or [C] as a float type has them; BF16 as the bits of its numbers.

    Raises:
        UserError: They are beyond its range.
    """
    stored = (value.values if isinstance(value, QuantizedMatrix) else value).to(FLOATS[kind])
    if kind == "F16" and not torch.isfinite(stored).all():
        raise UserError(
            f"`{name}` has values beyond the range of float16", "Export with --quantize bf16 or f32."
        )
    return (stored.view(torch.uint16) if kind == "BF16" else stored).numpy()


def bytes_of(kind: str) -> float:
    """Returns the bytes of a value of a type, with its share of scales."""
    import gguf

    values, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    return size / values


def row_bytes(kind: str, columns: int) -> int:
    """Returns the bytes of a row of a type."""
    import gguf

    values, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    return columns // values * size
