"""config.json and generation_config.json of a GGUF model."""

from __future__ import annotations

from typing import Any

import torch

from lathe.artefact.errors import UserError
from lathe.artefact.gguf.file import TOKENS, GgufModel
from lathe.compressor.model.gguf.architectures import Architecture
from lathe.compressor.model.gguf.quantization import value_dtype
from lathe.compressor.model.gguf.rope import rope_parameters

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
_DIMENSIONS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
}
_EPSILON = "attention.layer_norm_rms_epsilon"
_KNOWN = {
    *_DIMENSIONS.values(),
    _EPSILON,
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "vocab_size",
    "tensor_data_layout",
}
_ROPE_SCALING = "rope.scaling."
_SPECIAL = {
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "pad_token_id": "padding_token_id",
}
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
"""Tokens that end an answer."""
_MAX_LAYERS = 10_000


def config_of(model: GgufModel, architecture: Architecture) -> dict[str, Any]:
    """Returns config.json.

    Raises:
        UserError: Metadata is missing, of a wrong type, or says what Lathe has no setting for.
    """
    name = model.architecture
    _refuse_unknown(model, architecture)
    config = {ours: model.required(f"{name}.{key}", int) for ours, key in _DIMENSIONS.items()}
    wrong = [key for key, value in config.items() if value < 1]
    if wrong or config["num_hidden_layers"] > _MAX_LAYERS:
        raise UserError(f"{model.path} has an impossible dimension (`{(wrong or ['block_count'])[0]}`)")
    heads = config["num_attention_heads"]
    kv_heads = model.get(f"{name}.attention.head_count_kv", int, heads)
    if kv_heads < 1 or heads % kv_heads:
        raise UserError(f"{model.path} has {heads} query heads and {kv_heads} KV heads, which do not fit")
    head_dim = _head_dim(model, config["hidden_size"] // heads)
    found = {
        **config,
        "architectures": [architecture.causal_class],
        "model_type": architecture.model_type,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "rms_norm_eps": model.required(f"{name}.{_EPSILON}", float),
        "vocab_size": vocabulary(model),
        "tie_word_embeddings": HEAD not in model.tensors,
        "rope_parameters": rope_parameters(model, head_dim),
        "dtype": str(_dtype(model)).removeprefix("torch."),
        **special_tokens(model),
        **(_biases(model) if architecture.biases else {}),
        **architecture.settings(model),
    }
    return found | _rotated(model, architecture, found)


def generation_config_of(model: GgufModel) -> dict[str, Any]:
    """Returns generation_config.json: which tokens begin and end an answer."""
    special = special_tokens(model)
    given = [_token(model, f"tokenizer.ggml.{key}") for key in _ENDS]
    ends = sorted({token for token in given if token is not None})
    found = {**special, "eos_token_id": ends[0] if len(ends) == 1 else ends or None}
    return {key: value for key, value in found.items() if value is not None}


def special_tokens(model: GgufModel) -> dict[str, int | None]:
    """Returns the ids of the special tokens, as a config.json calls them.

    Raises:
        UserError: An id is not in the vocabulary.
    """
    return {ours: _token(model, f"tokenizer.ggml.{key}") for ours, key in _SPECIAL.items()}


def vocabulary(model: GgufModel) -> int:
    """Returns the number of tokens.

    Raises:
        UserError: There is no embedding, or the tokenizer has more or fewer tokens.
    """
    if EMBEDDING not in model.tensors:
        raise UserError(f"{model.path} has no `{EMBEDDING}`", "Is this a whole language model?")
    rows = model.tensors[EMBEDDING].shape[0]
    stated = {
        TOKENS: len(model.required(TOKENS, list)),
        f"{model.architecture}.vocab_size": model.get(f"{model.architecture}.vocab_size", int, rows),
    }
    for key, count in stated.items():
        if count != rows:
            raise UserError(
                f"{model.path} has {rows:,} rows of embeddings, but `{key}` says {count:,} tokens",
                "Convert the model again.",
            )
    return rows


def _token(model: GgufModel, key: str) -> int | None:
    found = model.get(key, int)
    if found is not None and not 0 <= found < vocabulary(model):
        raise UserError(f"`{key}` of {model.path} is {found}, which is not in its vocabulary")
    return found


def _head_dim(model: GgufModel, usual: int) -> int:
    key, value = (
        model.get(f"{model.architecture}.attention.{which}_length", int, usual) for which in ("key", "value")
    )
    if key != value or key < 2 or key % 2:
        raise UserError(
            f"{model.path} has keys of {key} and values of {value} dimensions",
            "Lathe reads equal and even ones.",
        )
    return int(key)


def _rotated(model: GgufModel, architecture: Architecture, config: dict[str, Any]) -> dict[str, Any]:
    """Returns the setting of how much of each head is rotated, where that is not all."""
    head_dim = config["head_dim"]
    rotated = model.get(f"{model.architecture}.rope.dimension_count", int, head_dim)
    if rotated == head_dim:
        return {}
    if architecture.partly_rotated and 0 < rotated < head_dim:
        share = rotated / head_dim
        rope = {**config["rope_parameters"], "partial_rotary_factor": share}
        return {"partial_rotary_factor": share, "rope_parameters": rope}
    raise UserError(
        f"{model.path} rotates {rotated} of {head_dim} dimensions of each head, which Lathe does not read"
    )


def _biases(model: GgufModel) -> dict[str, bool]:
    return {
        "attention_bias": "blk.0.attn_q.bias" in model.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in model.tensors,
    }


def _dtype(model: GgufModel) -> torch.dtype:
    """Returns the type that all matrices have, else float32."""
    dtypes = {value_dtype(tensor) for tensor in model.tensors.values() if len(tensor.shape) > 1}
    return dtypes.pop() if len(dtypes) == 1 else torch.float32


def _refuse_unknown(model: GgufModel, architecture: Architecture) -> None:
    """Refuses settings that Lathe has no place for: without them it would be another model."""
    prefix = f"{model.architecture}."
    for key, value in model.metadata.items():
        name = key.removeprefix(prefix)
        if name == key or name in _KNOWN or name in architecture.keys or name.startswith(_ROPE_SCALING):
            continue
        if value and name != "attention.causal":
            shown = f"{value!r}" if isinstance(value, int | float | str) else "a list"
            raise UserError(
                f"{model.path} sets `{key}` to {shown}, which Lathe does not read",
                "Compress the model's Hugging Face checkpoint.",
            )
