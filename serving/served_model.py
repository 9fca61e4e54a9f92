"""Finds the artefact that `lathe serve` is given, checks it before anything is opened, and describes it."""

from __future__ import annotations

import hashlib
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from lathe.artefact.checkpoint_config import max_positions
from lathe.artefact.errors import UserError
from lathe.artefact.family import is_family, read_family
from lathe.artefact.gguf_suffix import is_gguf
from lathe.artefact.manifest import MANIFEST, listed_files, read_json, verify_checkpoint, verify_graph
from lathe.artefact.onnx.graph_format import FOLDER, GRAPH
from lathe.artefact.shipped_files import warn_if_stale
from lathe.serving.dense_export import export_dense

FLOATS = ("F64", "F32", "F16", "BF16")
INTEGER_BYTES = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}

INDEX = "model.safetensors.index.json"

log = logging.getLogger("lathe.serving")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A verified directory to serve: an artefact, or a dense model.

    Attributes:
        path: the directory.
        name: the name of the model.
        eos: the tokens that end an answer.
        context: the longest sequence in tokens.
        vocab_size: the number of tokens in the vocabulary.
        compressed: whether it is smaller than its dense model.
        target_ms: the latency it was compressed for, if any, in milliseconds.
        target_metric: tpot, ttft or e2e.
        dense_weights: how many times the weights' bytes the dense model takes; None where no report says so.
        dense_kv: the same of a token in the KV cache.
        digest: the first 12 digits of the manifest's SHA-256; of the config's, without a manifest.
        kv_values: how many values a token takes in the KV cache.
        head_dim: the dimension of a head, if the config states it.
    """

    path: Path
    name: str
    eos: frozenset[int]
    context: int
    vocab_size: int
    compressed: bool
    target_ms: float | None
    target_metric: str
    dense_weights: float | None
    dense_kv: float | None
    digest: str
    kv_values: int
    head_dim: int | None

    @property
    def target(self) -> tuple[str, float | None]:
        """The metric of the target, and its milliseconds."""
        return self.target_metric, self.target_ms

    @property
    def tpot_target_ms(self) -> float | None:
        """The target, if it is one per output token."""
        return self.target_ms if self.target_metric == "tpot" else None

    @property
    def has_chat_template(self) -> bool:
        """True if the tokenizer's files contain a chat template."""
        config = read_json(self.path / "tokenizer_config.json", optional=True)
        return (self.path / "chat_template.jinja").exists() or bool(config.get("chat_template"))

    @property
    def graph(self) -> Path:
        return self.path / GRAPH

    def weights(self) -> tuple[int, int]:
        """Returns the number of floating-point values of the checkpoint, and the bytes of all others.

        A subnet's files may have rows of a wider one, too, which do not count.
        """
        if read_json(self.path / "config.json").get("shared_rows"):
            return int(read_json(self.path / INDEX)["metadata"]["total_parameters"]), 0
        values = other = 0
        for file in self.path.glob("*.safetensors"):
            with safe_open(file, "numpy") as tensors:
                for name in tensors.keys():  # noqa: SIM118  it is not a mapping
                    part = tensors.get_slice(name)
                    count = math.prod(part.get_shape())
                    if part.get_dtype() in FLOATS:
                        values += count
                    else:
                        other += count * INTEGER_BYTES[part.get_dtype()]
        return values, other


def open_served_model(path: Path) -> ServedModel:
    """Opens the artefact at `path`; a plain dense checkpoint, or a GGUF file, is exported first.

    Every file is verified that serving the graph reads.

    Raises:
        UserError: the directory cannot be served.
    """
    if is_gguf(path):
        exported = export_dense(path)
        name, _, _fingerprint = exported.name.rpartition("-")
        return describe(exported, name)
    check_model(path)
    if (path / MANIFEST).exists():
        verify_graph(path, listed_files(path))
        return describe(path, path.resolve().name)
    if (path / FOLDER).exists():
        raise UserError(f"{path} has an onnx folder but no manifest.json", "Export it again.")
    _check_weights(path)
    return describe(export_dense(path), path.resolve().name)


def open_served_checkpoint(path: Path) -> ServedModel:
    """Opens the artefact at `path`, or a plain dense checkpoint as it is.

    Every file is verified that loading the checkpoint reads.

    Raises:
        UserError: the directory cannot be served.
    """
    check_model(path)
    _check_weights(path)
    if (path / MANIFEST).exists():
        verify_checkpoint(path, listed_files(path))
    return describe(path, path.resolve().name)


def check_model(path: Path) -> None:
    """Checks that a path is a model's directory.

    Raises:
        UserError: it is not.
    """
    if is_gguf(path):
        raise UserError(
            f"{path} is a GGUF file, which this engine does not serve",
            f"Make a checkpoint of it: `lathe export {path} --to checkpoint -o OUT`.",
        )
    if not path.is_dir():
        raise UserError(f"{path} is not a directory", "Give the output directory of `lathe compress`.")
    if is_family(path):
        subnet = read_family(path).plans[0].path
        raise UserError(
            f"{path} is a family of subnets, which this engine does not serve",
            f"Give one of them, such as {path / subnet}, or --engine onnx.",
        )
    if not (path / "config.json").is_file():
        raise UserError(f"{path} holds no config.json", "Give the output directory of `lathe compress`.")
    warn_if_stale(path)


def _check_weights(path: Path) -> None:
    if not any(path.glob("*.safetensors")):
        raise UserError(f"{path} holds no weights (*.safetensors)", "Give the directory of a whole model.")


def describe(path: Path, name: str) -> ServedModel:
    """Returns what the files of a verified directory say of its model.

    Raises:
        UserError: one of them cannot be read, or there is no size of the vocabulary.
    """
    config = read_json(path / "config.json")
    generation = read_json(path / "generation_config.json", optional=True)
    report = read_json(path / "report.json", optional=True)
    plan = read_json(path / "plan.json", optional=True)
    vocab_size = config.get("vocab_size")
    if not isinstance(vocab_size, int):
        raise UserError(f"{path / 'config.json'} states no vocab_size")
    identity = path / (MANIFEST if (path / MANIFEST).exists() else "config.json")
    compressed = _compressed(config, plan)
    return ServedModel(
        path=path,
        name=name,
        eos=frozenset(token for token in _eos(config) | _eos(generation) if 0 <= token < vocab_size),
        context=max_positions(config),
        vocab_size=vocab_size,
        compressed=compressed,
        target_ms=_target_ms(report),
        target_metric=str(_entry(report, "latency").get("metric", "tpot")),
        dense_weights=_dense_over_subnet(report, "weight_bytes") if compressed else 1.0,
        dense_kv=_dense_over_subnet(report, "kv_bytes_per_token") if compressed else 1.0,
        digest=hashlib.sha256(identity.read_bytes()).hexdigest()[:12],
        kv_values=_kv_values(config),
        head_dim=_head_dim(config),
    )


def _eos(config: dict[str, Any]) -> frozenset[int]:
    value = config.get("eos_token_id")
    values = value if isinstance(value, list) else [value]
    return frozenset(token for token in values if isinstance(token, int))


def _compressed(config: dict[str, Any], plan: dict[str, Any]) -> bool:
    """Returns whether the plan takes anything away from the widths in the config."""
    layers = plan.get("layers", [])
    heads = config.get("num_attention_heads")
    experts = config.get("num_experts", config.get("num_local_experts"))
    dense = {
        "query_heads": heads,
        "kv_heads": config.get("num_key_value_heads", heads),
        "ffn": config.get("moe_intermediate_size", config.get("intermediate_size", config.get("ffn_dim"))),
        **({"experts": experts} if experts else {}),
    }
    return str(config.get("model_type", "")).startswith("lathe_") or any(layer != dense for layer in layers)


def _kv_values(config: dict[str, Any]) -> int:
    """Returns the number of keys and values of one token in all layers."""
    dense = config.get("num_key_value_heads") or config.get("num_attention_heads", 0)
    uneven = config.get("per_layer_config", {})
    dropped = config.get("dropped_blocks", {}).get("attention", [])
    heads = [
        uneven.get(str(layer), {}).get("num_key_value_heads", dense)
        for layer in range(config.get("num_hidden_layers", 0))
        if layer not in dropped
    ]
    return 2 * sum(heads) * (_head_dim(config) or 0)


def _head_dim(config: dict[str, Any]) -> int | None:
    width, heads = config.get("hidden_size"), config.get("num_attention_heads")
    return config.get("head_dim") or (width // heads if width and heads else None)


def _target_ms(report: dict[str, Any]) -> float | None:
    target = _entry(report, "latency").get("target_ms")
    return float(target) if isinstance(target, int | float) and target > 0 else None


def _dense_over_subnet(report: dict[str, Any], key: str) -> float | None:
    dense, subnet = (_entry(report, key).get(name) for name in ("dense", "subnet"))
    if not isinstance(dense, int | float) or not isinstance(subnet, int | float) or subnet <= 0:
        return None
    return dense / subnet


def _entry(report: dict[str, Any], key: str) -> dict[str, Any]:
    value = report.get(key)
    return value if isinstance(value, dict) else {}
