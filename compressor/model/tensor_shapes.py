"""The tensors of our exported model and their shapes, from its dimensions."""

from __future__ import annotations

from collections.abc import Iterator

from lathe.artefact.plan import ModelShape
from lathe.compressor.model.names import (
    ATTENTION_NORM,
    ATTENTION_OUTPUT_NORM,
    DOWN_PROJ,
    EMBEDDING,
    FFN_NORM,
    FFN_OUTPUT_NORM,
    FINAL_NORM,
    GATE_PROJ,
    K_NORM,
    K_PROJ,
    LM_HEAD,
    O_PROJ,
    POSITIONS,
    Q_NORM,
    Q_PROJ,
    ROUTER,
    SHARE_PROJ,
    SINKS,
    UP_PROJ,
    V_PROJ,
    layer_prefix,
)


def block_tensors(shape: ModelShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields (name relative to the layer, dense shape) of every tensor of one layer."""
    d = shape.hidden_size
    q, kv = shape.layer.query_heads * shape.head_dim, shape.layer.kv_heads * shape.head_dim
    ffn, experts = shape.ffn_channels(shape.layer), shape.experts_of(shape.layer)
    for present, norms in (
        (shape.norm_before, (ATTENTION_NORM, FFN_NORM)),
        (shape.norm_after, (ATTENTION_OUTPUT_NORM, FFN_OUTPUT_NORM)),
    ):
        for norm in norms if present else ():
            yield from _norm(norm, shape)
    qkv_bias = shape.attention_bias or shape.qkv_bias
    linears = [
        (Q_PROJ, q, d, qkv_bias),
        (K_PROJ, kv, d, qkv_bias),
        (V_PROJ, kv, d, qkv_bias),
        (O_PROJ, d, q, shape.attention_bias),
        *([(GATE_PROJ, ffn, d, shape.mlp_bias)] if shape.gate else []),
        (UP_PROJ, ffn, d, shape.mlp_bias),
        (DOWN_PROJ, d, ffn, shape.mlp_bias and not experts),
        *([(ROUTER, experts, d, shape.router_bias)] if experts else []),
        *([(SHARE_PROJ, d, experts, False)] if experts and shape.mlp_bias else []),
    ]
    for name, rows, columns, bias in linears:
        yield f"{name}.weight", (rows, columns)
        if bias:
            yield f"{name}.bias", (rows,)
    if shape.attention_sinks:
        yield SINKS, (shape.layer.query_heads,)
    if shape.qk_norm:
        yield f"{Q_NORM}.weight", (q if shape.qk_norm_whole else shape.head_dim,)
        yield f"{K_NORM}.weight", (kv if shape.qk_norm_whole else shape.head_dim,)


def tensors(shape: ModelShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields (full name, dense shape) of every tensor of the dense model."""
    yield from first_tensors(shape)
    for i in range(shape.num_layers):
        for name, dims in block_tensors(shape):
            yield layer_prefix(i) + name, dims
    yield from last_tensors(shape)


def first_tensors(shape: ModelShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields the tensors before the layers."""
    yield f"{EMBEDDING}.weight", (shape.vocab_size, shape.hidden_size)
    if shape.learned_positions:
        yield f"{POSITIONS}.weight", (shape.learned_positions, shape.hidden_size)


def last_tensors(shape: ModelShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields the tensors after the layers."""
    yield from _norm(FINAL_NORM, shape)
    if not shape.tied_embeddings:
        yield f"{LM_HEAD}.weight", (shape.vocab_size, shape.hidden_size)


def _norm(module: str, shape: ModelShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    for kind in ("weight", "bias") if shape.norm_bias else ("weight",):
        yield f"{module}.{kind}", (shape.hidden_size,)
