"""A GGUF model to serve as it is: the export of an artefact, or a file from anywhere."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lathe.artefact.atomic_files import staged_directory
from lathe.artefact.cache_dir import cache_root
from lathe.artefact.errors import UserError
from lathe.artefact.gguf.file import TOKENS, GgufModel, open_gguf
from lathe.artefact.gguf.tokenizer import build_tokenizer, check_tokenizer
from lathe.artefact.gguf_suffix import MODEL_FILE, is_gguf
from lathe.artefact.llamacpp.cache_size import kv_bytes_per_token
from lathe.artefact.manifest import listed_files, verify_gguf
from lathe.serving.served_model import ServedModel, check_model, describe

_COMPLETE = "tokenizer.json"
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
_WIDTHS = ("feed_forward_length", "attention.head_count", "attention.head_count_kv")


def gguf_of(model: Path) -> Path:
    """Returns the GGUF file of a model: itself, or the one in an artefact's directory."""
    return model.expanduser() if is_gguf(model) else model / MODEL_FILE


def open_served_gguf(model: Path) -> ServedModel:
    """Opens an artefact with a GGUF export, or a GGUF file.

    Of an artefact every file is verified that serving the export reads. The tokenizer of a file, with its
    chat template, is kept in Lathe's cache.

    Raises:
        UserError: it cannot be served.
    """
    if is_gguf(model):
        return _describe_file(open_gguf(gguf_of(model).absolute()))
    check_model(model)
    if not (model / MODEL_FILE).exists():
        raise UserError(
            f"{model} holds no GGUF export ({MODEL_FILE})",
            f"Make one: `lathe export {model} --to gguf -o OUT`.",
        )
    verify_gguf(model, listed_files(model))
    return describe(model, model.resolve().name)


def _describe_file(model: GgufModel) -> ServedModel:
    check_tokenizer(model)
    name, metadata = model.architecture, model.metadata
    tokens = len(model.required(TOKENS, list))
    ends = {model.get(f"tokenizer.ggml.{key}", int) for key in _ENDS}
    digest = hashlib.sha256(json.dumps(metadata).encode()).hexdigest()
    compressed = any(_differ(metadata.get(f"{name}.{width}")) for width in _WIDTHS)
    return ServedModel(
        path=_tokenizer_directory(model, digest),
        name=model.name,
        eos=frozenset(end for end in ends if end is not None and 0 <= end < tokens),
        context=model.required(f"{name}.context_length", int),
        vocab_size=tokens,
        compressed=compressed,
        target_ms=None,
        target_metric="tpot",
        dense_weights=None if compressed else 1.0,
        dense_kv=None if compressed else 1.0,
        digest=digest[:12],
        kv_values=kv_bytes_per_token(model, 1, flash=True),
        head_dim=model.get(f"{name}.attention.key_length", int),
    )


def _differ(widths: Any) -> bool:
    """Returns whether a width is given by layer, and not the same for all."""
    return isinstance(widths, list) and len(set(widths)) > 1


def _tokenizer_directory(model: GgufModel, digest: str) -> Path:
    """Returns the directory of a file's tokenizer, which depends on the metadata alone.

    Raises:
        UserError: the tokenizer cannot be built or written.
    """
    directory = cache_root() / "gguf-tokenizers" / digest[:16] / model.name
    if not (directory / _COMPLETE).is_file():
        tokenizer = build_tokenizer(model)
        with staged_directory(directory, shared=_COMPLETE) as temporary:
            try:
                tokenizer.save_pretrained(temporary)
            except OSError as error:
                raise UserError(f"cannot write {directory}: {error.strerror or error}") from None
    return directory
