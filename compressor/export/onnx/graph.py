"""The decoder as an ONNX graph."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch

from lathe.artefact.checkpoint_config import max_positions
from lathe.artefact.errors import UserError
from lathe.artefact.onnx.graph_format import GRAPH_FORMAT, MODEL_FILE
from lathe.artefact.onnx.minimum_version import ENTRY, INT8_CACHE, OLDEST
from lathe.artefact.plan import ModelShape, Plan
from lathe.compressor.export.layout import pruned_tensors
from lathe.compressor.export.onnx.cache import LayerScales, cache_format
from lathe.compressor.export.onnx.decoder import Decoder, Tensors
from lathe.compressor.export.onnx.decoder_moe import GptOssDecoder, MoeDecoder
from lathe.compressor.export.onnx.decoder_variants import GemmaDecoder, NeoxDecoder, OptDecoder
from lathe.compressor.export.onnx.matrices import Matrices, Plain, QuantizedMatrices, as_they_are
from lathe.compressor.export.onnx.rope import check_rope
from lathe.compressor.export.onnx.writer import AS_USUAL, GraphWriter, Storage, graph_writer
from lathe.compressor.model.families import Family

DECODERS: dict[str, type[Decoder]] = {
    "lathe_llama": Decoder,
    "lathe_gemma": GemmaDecoder,
    "lathe_gpt_oss": GptOssDecoder,
    "lathe_moe": MoeDecoder,
    "lathe_neox": NeoxDecoder,
    "lathe_opt": OptDecoder,
}
"""By our model type."""
_HEAD_DIM_UNIT = 16


@dataclass(frozen=True)
class Rounded:
    """What of a model is rounded before its graph is built.

    Attributes:
        matrices: gives matrices of blocks that are in codes already, of one block all or none.
        cache: gives the scales of an int8 KV cache; None: it is float32.
    """

    matrices: QuantizedMatrices = as_they_are
    cache: LayerScales | None = None


def build_onnx(
    directory: Path,
    config: dict[str, Any],
    family: Family,
    plan: Plan,
    tensor: Tensors,
    matrices: Callable[[GraphWriter], Matrices] = Plain,
    *,
    rounded: Rounded = Rounded(),
    storage: Storage = AS_USUAL,
) -> None:
    """Writes `model.onnx` and `model.onnx.data` into `directory`.

    `config` is the dense model's config.json document; `tensor` gives a pruned tensor, float32, by its
    checkpoint name, and is asked once for each, block by block.

    Raises:
        UserError: the config needs something that this graph does not have, or the disk refuses.
    """
    shape = family.shape(config)
    check_config(config, shape, family)
    if len(plan) != shape.num_layers:
        raise UserError(f"the plan has {len(plan)} layers; the model has {shape.num_layers}")
    count = sum(torch.Size(dims).numel() for _, dims in pruned_tensors(shape, plan))
    with graph_writer(directory, 4 * count, storage) as writer:
        made, cache = matrices(writer), cache_format(writer, rounded.cache)
        decoder = DECODERS[family.exported_type]
        decoder(writer, config, shape, tensor, made, cache, rounded.matrices).build(plan)
        sizes = {"weight_bytes": {"before": 4 * count, "after": writer.weight_bytes}}
        writer.metadata |= {
            "lathe.format": GRAPH_FORMAT,
            "lathe.family": family.model_type,
            "lathe.max_position_embeddings": str(max_positions(config)),
            "lathe.weight_bytes": str(writer.weight_bytes),
            "lathe.plan": json.dumps(plan.to_json()),
            "lathe.quantization": json.dumps(made.summary() | sizes),
            ENTRY: oldest_runtime(config, shape.experts > 0, bool(made.summary()), rounded.cache is not None),
        }


def oldest_runtime(
    config: Mapping[str, Any], experts: bool, quantized: bool, int8_cache: bool = False
) -> str:
    """Returns the oldest ONNX Runtime that computes a model's graph right.

    Before 1.32, float32 experts whose routing weights are not normalised overwrite their input; quantized
    experts exist since 1.31.
    """
    if experts and not quantized and not config.get("normalised_shares", True):
        return "1.32"
    if experts and quantized:
        return "1.31"
    return INT8_CACHE if int8_cache else OLDEST


def read_summary(directory: Path) -> dict[str, Any]:
    """Returns the summary of a graph's quantization, with its bytes before, as float32, and after."""
    model = onnx.load(directory / MODEL_FILE, load_external_data=False)
    summary = next(entry.value for entry in model.metadata_props if entry.key == "lathe.quantization")
    return dict(json.loads(summary))


def check_config(config: Mapping[str, Any], shape: ModelShape, family: Family) -> None:
    """Refuses, before any weight is read, what the graph cannot reproduce.

    Raises:
        UserError: names the setting.
    """
    activation, known = config.get("hidden_act", "silu"), DECODERS[family.exported_type].activations
    if activation not in known:
        raise UserError(f"`hidden_act` {activation} cannot be exported to ONNX", f"Supported: {known[0]}.")
    if shape.head_dim % _HEAD_DIM_UNIT:
        raise UserError(
            f"head dimension {shape.head_dim} cannot be exported to ONNX",
            f"ONNX Runtime's GroupQueryAttention rotates multiples of {_HEAD_DIM_UNIT}.",
        )
    check_rope(config)
