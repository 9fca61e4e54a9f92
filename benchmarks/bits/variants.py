"""What is compared: how each kind of artefact is made, and which ones lie on one front."""

from __future__ import annotations

from dataclasses import dataclass

from lathe.artefact.errors import UserError
from lathe.compressor.latency.backend import with_int8_cache

ONNX, LLAMACPP = "onnx", "llamacpp"


@dataclass(frozen=True)
class Variant:
    """A kind of artefact.

    Attributes:
        name: The name that `--variants` takes.
        scheme: The `--quantize` of `compress` or `lathe export` that makes it, or `mixed`; None: float32.
        searched: Whether there is an artefact for each target; otherwise it is the dense model.
        compensated: Whether `compress` rounds its weights, on calibration text; otherwise to nearest.
        family: The artefacts of one family lie on one front, from the dense model on.
        kv_cache: The `--kv-cache` of `compress` that makes it.
        gguf: The file type that llama.cpp quantizes the dense model to, and runs.
        engine: The `--backend` of `compress`.
    """

    name: str
    scheme: str | None
    searched: bool
    compensated: bool
    family: str
    kv_cache: str = "float"
    gguf: str | None = None
    engine: str = ONNX

    @property
    def ours(self) -> bool:
        """True if the bits of every block are searched."""
        return self.scheme == MIXED

    @property
    def dense_backend(self) -> str:
        """The backend of the dense model that `compress` takes its speed-up of."""
        scheme = "" if self.scheme in (None, MIXED) else f"-{self.scheme}"
        name = f"{self.engine}{scheme}"
        return with_int8_cache(name) if self.kv_cache == "int8" else name

    @property
    def of(self) -> str:
        """The variant whose artefacts it rounds to nearest; its own name where it is made from the model."""
        nearest = self.searched and self.scheme is not None and not self.compensated
        return self.family.removesuffix(NEAREST) if nearest else self.name


MIXED, NEAREST = "mixed", "-nearest"
REFERENCE, DENSE_INT4 = "dense-float32", "dense-int4-nearest"
"""What all are timed and scored against; what the issue's ratios are taken of."""

VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(REFERENCE, None, False, False, "float32"),
        Variant("dense-int8-nearest", "int8", False, False, "int8-nearest"),
        Variant(DENSE_INT4, "int4", False, False, "int4-nearest"),
        Variant("dense-int8", "int8", False, True, "int8"),
        Variant("dense-int4", "int4", False, True, "int4"),
        Variant("mixed", MIXED, True, True, "mixed"),
        Variant("mixed-kv8", MIXED, True, True, "mixed-kv8", kv_cache="int8"),
        Variant("mixed-llamacpp", MIXED, True, True, "mixed-llamacpp", engine=LLAMACPP),
        Variant("float32", None, True, False, "float32"),
        Variant("int8", "int8", True, True, "int8"),
        Variant("int8-nearest", "int8", True, False, "int8-nearest"),
        Variant("int4", "int4", True, True, "int4"),
        Variant("int4-nearest", "int4", True, False, "int4-nearest"),
        *(
            Variant(f"llama.cpp-{name.lower()}", None, False, False, "llama.cpp", gguf=name)
            for name in ("Q8_0", "Q4_K_M", "Q4_0", "Q2_K")
        ),
    )
}
"""By name, in the order in which they are made: one that rounds another's artefacts comes after it."""


def chosen(names: str) -> tuple[Variant, ...]:
    """Returns the variants that are listed with commas, and what they need, in the order to make them in.

    Raises:
        UserError: there is no such variant.
    """
    asked = {name.strip() for name in names.split(",") if name.strip()} | {REFERENCE}
    unknown = asked - VARIANTS.keys()
    if unknown:
        raise UserError(f"there is no variant {min(unknown)}", f"Choose of {', '.join(VARIANTS)}.")
    asked |= {VARIANTS[name].of for name in asked}
    return tuple(variant for name, variant in VARIANTS.items() if name in asked)
