"""What a model computes beyond a Llama: an architecture of llama.cpp has a place for it, or has none."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lathe.compressor.export.gguf.subnet import Subnet

QKV_BIAS, OUTPUT_BIAS, FFN_BIAS = "qkv bias", "output bias", "ffn bias"
QK_NORM, WHOLE_QK_NORM, NORM_BEFORE, NORM_AFTER = "qk norm", "whole qk norm", "norm before", "norm after"
UNTIED, GELU, SCALED_EMBEDDING, WINDOWS_ROPE = "untied", "gelu", "scaled embedding", "windows rope"
SOME_POSITIONS, SCORE_CAP, LOGIT_CAP = "some positions", "score cap", "logit cap"
ROPE_LINEAR, ROPE_YARN, ROPE_LLAMA3 = "linear rope", "yarn rope", "llama3 rope"

PHRASES = {
    QKV_BIAS: "biases of queries, keys and values",
    OUTPUT_BIAS: "biases of output projections",
    FFN_BIAS: "biases of FFNs",
    QK_NORM: "norms of queries and keys",
    WHOLE_QK_NORM: "norms over all heads of queries or keys together",
    NORM_BEFORE: "norms before its blocks",
    NORM_AFTER: "norms after its blocks",
    UNTIED: "heads apart from the embedding",
    GELU: "GELU in FFNs",
    SCALED_EMBEDDING: "scaled embeddings",
    WINDOWS_ROPE: "other rotary positions in layers with windows",
    SOME_POSITIONS: "layers without positions",
    SCORE_CAP: "soft caps of scores",
    LOGIT_CAP: "soft caps of logits",
    ROPE_LINEAR: "rotary positions scaled linearly",
    ROPE_YARN: "rotary positions scaled by YaRN",
    ROPE_LLAMA3: "rotary positions scaled as Llama 3's",
}
"""What people call a feature; others have a phrase of their own as their name."""
_NO_ROPE = "learned instead of rotary positions"
_ACTIVATIONS = {"silu": "", "gelu_pytorch_tanh": GELU}
_ROPES = {"default": "", "linear": ROPE_LINEAR, "yarn": ROPE_YARN, "llama3": ROPE_LLAMA3}
_YARN_USUAL = {"attention_factor": None, "mscale": None, "mscale_all_dim": None, "truncate": True}
"""Settings of YaRN that llama.cpp does not read, and their values where nothing changes."""

_IN_SHAPE: dict[str, Callable[[Subnet], bool]] = {
    QKV_BIAS: lambda model: model.shape.qkv_bias or model.shape.attention_bias,
    OUTPUT_BIAS: lambda model: model.shape.attention_bias,
    FFN_BIAS: lambda model: model.shape.mlp_bias,
    QK_NORM: lambda model: model.shape.qk_norm and not model.shape.qk_norm_whole,
    WHOLE_QK_NORM: lambda model: model.shape.qk_norm_whole,
    NORM_BEFORE: lambda model: model.shape.norm_before,
    NORM_AFTER: lambda model: model.shape.norm_after,
    UNTIED: lambda model: not model.shape.tied_embeddings,
    SCALED_EMBEDDING: lambda model: bool(model.config.get("scaled_embedding")),
    WINDOWS_ROPE: lambda model: bool(model.config.get("window_rope_parameters")),
    SOME_POSITIONS: lambda model: 0 in (model.config.get("no_rope_layers") or ()),
    SCORE_CAP: lambda model: bool(model.config.get("attn_logit_softcapping")),
    LOGIT_CAP: lambda model: bool(model.config.get("final_logit_softcapping")),
    "experts": lambda model: bool(model.shape.experts),
    "FFNs without gates": lambda model: not model.shape.gate,
    "biases of norms": lambda model: model.shape.norm_bias,
    "sinks of attention": lambda model: model.shape.attention_sinks,
    "heads that are rotated in part": lambda model: _rotated(model) != 1,
    _NO_ROPE: lambda model: bool(model.shape.learned_positions),
}


def features_of(model: Subnet) -> frozenset[str]:
    """Returns what a model computes beyond the plainest decoder, from its config alone."""
    found = {name for name, has in _IN_SHAPE.items() if has(model)}
    return frozenset(found | {*_others(model)})


def _others(model: Subnet) -> Iterator[str]:
    activation, kind = str(model.config.get("hidden_act", "silu")), str(model.rope["rope_type"])
    if known := _ACTIVATIONS.get(activation, f"the activation `{activation}`"):
        yield known
    if not model.shape.learned_positions and (scaling := _ROPES.get(kind, f"`{kind}` rotary positions")):
        yield scaling
    if kind == "yarn":
        for key, usual in _YARN_USUAL.items():
            if model.rope.get(key, usual) != usual:
                yield f"`{key}` of YaRN"


def _rotated(model: Subnet) -> float:
    """Returns the share of each head that is rotated."""
    given = model.rope.get("partial_rotary_factor", model.config.get("partial_rotary_factor"))
    return 1.0 if given is None else float(given)


def phrase(feature: str) -> str:
    """Returns what people call a feature."""
    return PHRASES.get(feature, feature)
