"""Gemma 3 with even layers, without images: the file lists the layers with windows."""

from collections.abc import Iterator
from typing import Any

from lathe.compressor.export.gguf.features import LOGIT_CAP, QK_NORM, ROPE_LINEAR, UNTIED, WINDOWS_ROPE
from lathe.compressor.export.gguf.hosts.base import Host, hosts
from lathe.compressor.export.gguf.hosts.gemma2 import ALWAYS, NORMS, odd_scale, window
from lathe.compressor.export.gguf.subnet import Subnet
from lathe.compressor.model.gguf.architectures.base import ATTENTION, FFN, QK_NORMS

_LAYERS_OF_27B = 62


def _odds(model: Subnet) -> Iterator[str]:
    yield from odd_scale(model, _LAYERS_OF_27B)
    others = model.config.get("window_rope_parameters") or {}
    if others.get("rope_type", "default") != "default":
        yield "scaled rotary positions in layers with windows"


def _settings(model: Subnet) -> dict[str, Any]:
    if not any(model.windows):
        return {}
    others = model.config.get("window_rope_parameters") or model.rope
    cap = model.config.get("final_logit_softcapping")
    return {
        **window(model),
        "attention.sliding_window_pattern": [bool(tokens) for tokens in model.windows],
        "rope.freq_base_swa": float(others["rope_theta"]),
        **({"final_logit_softcapping": float(cap)} if cap else {}),
    }


GEMMA3 = hosts.add(
    "gemma3",
    Host(
        "gemma3",
        {**NORMS, **ATTENTION, **QK_NORMS, **FFN},
        takes=frozenset({UNTIED, LOGIT_CAP, ROPE_LINEAR, WINDOWS_ROPE}),
        needs=ALWAYS | {QK_NORM},
        windows=True,
        norm_offset=1.0,
        odds=_odds,
        settings=_settings,
    ),
)
