"""GGUF files of tiny random models, written by the `gguf` package as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind

CONTROL, NORMAL = 3, 1
ARCHITECTURES = {"gemma3_text": "gemma3"}
"""By model type, where the two differ."""
_PERMUTED = ("llama", "smollm3")
_PLUS_ONE = ("gemma2", "gemma3_text")
Skip = Callable[[str], bool]


def write_gguf(
    path: Path,
    model: Any,
    kind: Kind = Kind.F32,
    *,
    tokens: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    skip: Skip = lambda _name: False,
) -> Path:
    """Writes a model of transformers, whose weights become those that the file holds.

    `metadata` replaces what would be written by key; None leaves a key out. `skip` leaves tensors out, by
    their names in GGUF.
    """
    architecture = ARCHITECTURES.get(model.config.model_type, model.config.model_type)
    writer = gguf.GGUFWriter(None, architecture)
    values = {**settings(model.config, architecture), **(tokens or plain_tokens(model.config.vocab_size))}
    for key, value in {**values, **(metadata or {})}.items():
        if value is not None and key != "general.architecture":
            _add(writer, key, value)
    for name, raw, stored in _tensors(model, architecture, kind):
        if not skip(name):
            writer.add_tensor(name, raw, raw_dtype=stored)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def plain_tokens(count: int) -> dict[str, Any]:
    """A byte-level vocabulary that nothing is tokenised with."""
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": ["a", "b", "ab", *(f"t{number}" for number in range(count - 3))],
        "tokenizer.ggml.token_type": [NORMAL] * count,
        "tokenizer.ggml.merges": ["a b"],
    }


def byte_level_tokens(directory: Path, pre: str = "gpt-2") -> dict[str, Any]:
    """The metadata of a tokenizer that transformers saved."""
    document = json.loads((directory / "tokenizer.json").read_text())
    vocabulary, merges = document["model"]["vocab"], document["model"]["merges"]
    control = {token["id"] for token in document["added_tokens"] if token["special"]}
    tokens = [
        *vocabulary,
        *(t["content"] for t in document["added_tokens"] if t["content"] not in vocabulary),
    ]
    ids = vocabulary | {token["content"]: token["id"] for token in document["added_tokens"]}
    tokens.sort(key=lambda token: ids[token])
    template = directory / "chat_template.jinja"
    config = json.loads((directory / "tokenizer_config.json").read_text())
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [CONTROL if ids[token] in control else NORMAL for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.bos_token_id": ids[config["bos_token"]],
        "tokenizer.ggml.eos_token_id": ids[config["eos_token"]],
        "tokenizer.ggml.add_bos_token": True,
        **({"tokenizer.chat_template": template.read_text()} if template.exists() else {}),
    }


def settings(config: Any, architecture: str) -> dict[str, Any]:
    """What llama.cpp's converter writes of a config."""
    found = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": config.head_dim,
        "vocab_size": config.vocab_size,
    }
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    found["rope.freq_base"] = float(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        found |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": float(rope["factor"])}
    if rope["rope_type"] == "yarn":
        found["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
    if share := rope.get("partial_rotary_factor"):
        found["rope.dimension_count"] = int(config.head_dim * share)
    if architecture in ("gemma2", "gemma3", "phi3"):
        found["attention.sliding_window"] = config.sliding_window
    if architecture == "gemma2":
        found["attn_logit_softcapping"] = config.attn_logit_softcapping
        found["final_logit_softcapping"] = config.final_logit_softcapping
    return {f"{architecture}.{key}": value for key, value in found.items() if value is not None}


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    kinds: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
    }
    kinds.get(type(value), writer.add_array)(key, value)


def _tensors(model: Any, architecture: str, kind: Kind) -> Any:
    """Yields tensors as they are stored: name, values or blocks, type. The model gets the stored values."""
    config, chosen = model.config, next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == architecture)
    names = gguf.get_tensor_name_map(chosen, config.num_hidden_layers)
    random = np.random.default_rng(0)
    for theirs, parameter in model.named_parameters():
        name = str(names.get_name(theirs, try_suffixes=(".weight", ".bias")))
        value = parameter.detach().numpy()
        if value.ndim == 1 and config.model_type in _PLUS_ONE and "norm" in name:
            yield name, value + 1, Kind.F32
            continue
        stored = _fitting(kind, value) if value.ndim > 1 else Kind.F32
        raw = _random_q4_k(random, value.shape) if stored == Kind.Q4_K else gguf.quantize(value, stored)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(gguf.dequantize(raw, stored).copy()))
        if config.model_type in _PERMUTED and (".attn_q." in name or ".attn_k." in name):
            heads = config.num_attention_heads if ".attn_q." in name else config.num_key_value_heads
            raw = permuted(raw, heads)
        yield name, raw, stored
    if config.model_type == "llama" and config.rope_parameters["rope_type"] == "llama3":
        exponents = torch.arange(0, config.head_dim, 2) / config.head_dim
        plain = 1 / config.rope_parameters["rope_theta"] ** exponents
        yield "rope_freqs.weight", (plain / model.model.rotary_emb.inv_freq).numpy(), Kind.F32


def permuted(value: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys in llama.cpp's order, as its `LlamaModel.permute` puts them."""
    split = value.reshape(heads, 2, value.shape[0] // heads // 2, *value.shape[1:])
    return split.swapaxes(1, 2).reshape(value.shape)


def _fitting(kind: Kind, value: np.ndarray) -> Kind:
    return kind if value.shape[1] % gguf.GGML_QUANT_SIZES[kind][0] == 0 else Kind.Q8_0


def _random_q4_k(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Blocks of Q4_K, which the package cannot quantize to: two scales as float16, then bytes."""
    blocks = random.integers(0, 256, (shape[0] * shape[1] // 256, 144), np.uint8)
    scales = random.uniform(0.5e-3, 1e-3, (len(blocks), 2)).astype(np.float16)
    blocks[:, :4] = scales.view(np.uint8)
    return blocks.reshape(shape[0], -1)
