"""genai_config.json: what onnxruntime-genai is told of a model.

Of KV heads it is told the dense model's number: it takes those of each layer, and which layers have any, from
the graph's inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lathe.artefact.checkpoint_config import max_positions
from lathe.artefact.errors import UserError
from lathe.artefact.manifest import read_json
from lathe.artefact.onnx.graph_format import FOLDER
from lathe.compressor.model.checkpoint import Checkpoint

GENAI_CONFIG = "genai_config.json"
GENAI_GRAPH = f"{FOLDER}/genai.onnx"
_GENERATION = "generation_config.json"
_USUAL = {"do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "repetition_penalty": 1.0}
"""Sampling, and what transformers takes where generation_config.json says nothing."""


def genai_config(source: Checkpoint) -> dict[str, Any]:
    """Returns the document for a model whose graph is at `GENAI_GRAPH`.

    Raises:
        UserError: as `check_ends`.
    """
    shape, generation = source.shape, _generation(source)
    ends, positions = check_ends(source), max_positions(source.config)
    begins, padding = (_ids(source, generation, f"{name}_token_id") for name in ("bos", "pad"))
    sampling = {key: _first(generation.get(key), usual) for key, usual in _USUAL.items()}
    past, present = "past_key_values.%d", "present.%d"
    return {
        "model": {
            "type": "decoder",
            "vocab_size": shape.vocab_size,
            "context_length": positions,
            **({"bos_token_id": begins[0]} if begins else {}),
            "eos_token_id": ends,
            "pad_token_id": [*padding, *ends][0],
            "decoder": {
                "filename": GENAI_GRAPH,
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "hidden_size": shape.hidden_size,
                "head_size": shape.head_dim,
                "num_hidden_layers": shape.num_layers,
                "num_attention_heads": shape.layer.query_heads,
                "num_key_value_heads": shape.layer.kv_heads,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": f"{past}.key",
                    "past_value_names": f"{past}.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": f"{present}.key",
                    "present_value_names": f"{present}.value",
                },
            },
        },
        "search": {
            "max_length": positions,
            "past_present_share_buffer": True,
            **sampling,
            "top_k": min(max(0, sampling["top_k"]), shape.vocab_size),
        },
    }


def check_ends(source: Checkpoint) -> list[int]:
    """Returns the tokens that end an answer; reads no weights.

    Raises:
        UserError: there is none. onnxruntime-genai would end answers at its padding token instead.
    """
    found = _ids(source, _generation(source), "eos_token_id")
    if not found:
        raise UserError(
            f"{source.name} names no token that ends an answer, and onnxruntime-genai needs one",
            f"Set `eos_token_id` in {_GENERATION} or config.json.",
        )
    return found


def _generation(source: Checkpoint) -> dict[str, Any]:
    return read_json(source.path / _GENERATION, optional=True)


def _ids(source: Checkpoint, generation: Mapping[str, Any], name: str) -> list[int]:
    """Returns the ids that a setting gives, without those that the vocabulary does not have."""
    given = _first(generation.get(name), source.config.get(name))
    several = given if isinstance(given, list) else [given]
    return [token for token in several if isinstance(token, int) and 0 <= token < source.shape.vocab_size]


def _first(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value
