"""An uneven Llama: every layer is built from its own widths, and blocks may be absent.

Shapes: B batch, S tokens, N query heads, K KV heads, H head dim.

This file is shipped inside checkpoints and imports nothing of Lathe.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import DynamicCache, PreTrainedModel
from transformers.masking_utils import create_causal_mask, sliding_window_overlay
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaForCausalLM,
    LlamaMLP,
    LlamaModel,
    LlamaRMSNorm,
)
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding, apply_rotary_pos_emb
from transformers.utils.generic import TransformersKwargs, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_lathe_llama import LatheLlamaConfig

CACHE = "cache" if "cache" in inspect.signature(create_causal_mask).parameters else "past_key_values"
"""The name of the KV cache among the arguments; transformers renamed it in 5.24."""
_TAKEN = {
    *TransformersKwargs.__annotations__,
    "attention_instances",
    "token_type_ids",
    "shift_labels",
    "ignore_index",
    "cache_position",
}
"""Arguments of attention kernels or callers, beside the model's own: vLLM passes its kernels, some tokenizers
pass segments, which no decoder reads, the loss has its own labels, and older callers pass positions in the
cache, which caches count themselves."""


_OF_PAGES = "logits_indices"
"""What transformers passes where it keeps the cache in pages."""


def one_cache(cache: Any, past_key_values: Any) -> Any:
    """Returns the KV cache, whichever of its two names it was passed by."""
    return past_key_values if cache is None else cache


def check_known(arguments: dict[str, Any]) -> None:
    """Checks that something here reads each argument: ignoring one could change the result.

    Raises:
        TypeError: An argument is unknown.
    """
    unknown = sorted(name for name, value in arguments.items() if value is not None and name not in _TAKEN)
    if _OF_PAGES in unknown:
        raise TypeError(
            "transformers' continuous batching (`generate_batch`) keeps equally many heads for all layers, "
            "which this model's layers do not have: call `generate`, or serve it with vLLM or `lathe serve`"
        )
    if unknown:
        raise TypeError(
            f"this model takes no argument {unknown[0]!r}: a newer transformers may have renamed one; renew "
            "the model's files with `lathe refresh`, or install a transformers that they were tested with"
        )


def rotary(config: LatheLlamaConfig, parameters: Any) -> Any:
    """Builds rotary positions with these parameters, which may rotate only a part of each head."""
    own: Any = copy.copy(config)
    own.rope_parameters = parameters
    return Phi3RotaryEmbedding(own)


class LatheLlamaAttention(LlamaAttention):
    """Attention with the widths of one layer, and with the biases and norms that the config asks for."""

    norm_class: Any = LlamaRMSNorm
    softcap: float | None = None
    eager: Any = staticmethod(eager_attention_forward)
    q_norm: nn.Module
    k_norm: nn.Module

    def __init__(self, config: LatheLlamaConfig, layer_idx: int, cache_idx: int) -> None:
        widths: Any = config.per_layer_config[layer_idx]
        super().__init__(config=widths, layer_idx=cache_idx)
        self.rotates = config.has_positions(layer_idx)
        self.window = config.window(layer_idx)
        self.config = config  # the one whose attention implementation can be changed later
        if config.qkv_bias:
            for name in ("q_proj", "k_proj", "v_proj"):
                rows = getattr(self, name).out_features
                setattr(self, name, nn.Linear(config.hidden_size, rows, bias=True))
        self.norms_heads = config.qk_norm and not config.qk_norm_whole
        for norm, projection in (("q_norm", self.q_proj), ("k_norm", self.k_proj)):
            width = projection.out_features if config.qk_norm_whole else self.head_dim
            module = self.norm_class(width, eps=config.rms_norm_eps) if config.qk_norm else nn.Identity()
            setattr(self, norm, module)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: Any = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        cache = one_cache(cache, past_key_values)
        batch, length, _ = hidden_states.shape
        heads = (batch, length, -1, self.head_dim)
        q, k, v = self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)
        if self.norms_heads:
            q, k = q.view(heads), k.view(heads)
        q_BNSH = self.q_norm(q).view(heads).transpose(1, 2)
        k_BKSH = self.k_norm(k).view(heads).transpose(1, 2)
        v_BKSH = v.view(heads).transpose(1, 2)
        if self.rotates:
            q_BNSH, k_BKSH = apply_rotary_pos_emb(q_BNSH, k_BKSH, *position_embeddings)
        if cache is not None:
            k_BKSH, v_BKSH = cache.update(k_BKSH, v_BKSH, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, self.eager)
        attended_BSNH, shares = attend(
            self,
            q_BNSH,
            k_BKSH,
            v_BKSH,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=self.window or None,
            softcap=self.softcap,
            **kwargs,
        )
        return self.o_proj(attended_BSNH.reshape(batch, length, -1).contiguous()), shares


class LatheLlamaDecoderLayer(LlamaDecoderLayer):
    """A decoder layer with its own widths; without attention or FFN where the config drops them."""

    norm_class: Any = LlamaRMSNorm
    attention_class: Any = LatheLlamaAttention
    mlp_class: Any = LlamaMLP

    def __init__(self, config: LatheLlamaConfig, layer_idx: int, cache_idx: int) -> None:
        nn.Module.__init__(self)
        widths: Any = config.per_layer_config[layer_idx]
        self.hidden_size = config.hidden_size
        self.has_attention = config.has_block("attention", layer_idx)
        self.has_ffn = config.has_block("ffn", layer_idx)
        if self.has_attention:
            self.self_attn = self.attention_class(config, layer_idx, cache_idx)
            self.input_layernorm = self._norm(config, config.norm_before)
            self.attention_output_norm = self._norm(config, config.norm_after)
        if self.has_ffn:
            self.mlp = self.mlp_class(widths)
            self.post_attention_layernorm = self._norm(config, config.norm_before)
            self.ffn_output_norm = self._norm(config, config.norm_after)

    def _norm(self, config: LatheLlamaConfig, present: bool) -> Any:
        return self.norm_class(config.hidden_size, eps=config.rms_norm_eps) if present else nn.Identity()

    def attend(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Returns what the attention block adds to the residual stream."""
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), *args, **kwargs)
        return self.attention_output_norm(attended)

    def feed(self, hidden_states: torch.Tensor) -> Any:
        """Returns what the FFN block adds to the residual stream."""
        return self.ffn_output_norm(self.mlp(self.post_attention_layernorm(hidden_states)))

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.has_attention:
            hidden_states = hidden_states + self.attend(hidden_states, *args, **kwargs)
        if self.has_ffn:
            hidden_states = hidden_states + self.feed(hidden_states)
        return hidden_states


def own_rows(config: LatheLlamaConfig, files: Iterable[str]) -> dict[str, torch.Tensor]:
    """Returns a model's tensors by name, out of weight files that others read, too."""
    found: dict[str, torch.Tensor] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            found |= {name: opened.get_tensor(name)[: config.rows(name)] for name in opened.keys()}  # noqa: SIM118
    return found


class SharedRows:
    """How transformers, here of 5.17 to 5.24, loads a model whose weight files may have more rows than it.

    A version that loads models otherwise finds matrices of other shapes, and says so.
    """

    @staticmethod
    def _load_pretrained_model(
        model: Any, state_dict: Any, checkpoint_files: Any, load_config: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if state_dict is None and model.config.shared_rows:
            if "disk" in (load_config.device_map or {}).values():
                raise ValueError(
                    "this model's weight files have rows of other models, too, and cannot stay on the disk: "
                    "load it into memory once, and `save_pretrained` it elsewhere"
                )
            state_dict = own_rows(model.config, checkpoint_files)
            model.config.shared_rows = False
        return PreTrainedModel._load_pretrained_model(
            model, state_dict, checkpoint_files, load_config, *args, **kwargs
        )


class LatheLlamaModel(SharedRows, LlamaModel):
    """The decoder.

    Layers with attention number their caches 0, 1, and so on, so that the first cache is always in use.
    """

    config_class = LatheLlamaConfig
    layer_class: Any = LatheLlamaDecoderLayer
    _no_split_modules = ["LatheLlamaDecoderLayer"]

    def __init__(self, config: LatheLlamaConfig) -> None:
        super(LlamaModel, self).__init__(config)
        if config.windows and config._attn_implementation == "vllm":
            raise ValueError("vLLM's transformers back end has no windows by layer: use this model's plugin")
        if config.shared_rows and config._attn_implementation == "vllm":
            raise ValueError(
                "vLLM's transformers back end reads whole files of weights: use this model's plugin"
            )
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = self.new_embedding(config)
        with_attention = [config.has_block("attention", i) for i in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(
            self.layer_class(config, i, cache_idx=sum(with_attention[:i]))
            for i in range(config.num_hidden_layers)
        )
        self.norm = self.layer_class.norm_class(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = rotary(config, config.rope_parameters)
        if config.window_rope_parameters:
            self.window_rotary_emb = rotary(config, config.window_rope_parameters)
        self.gradient_checkpointing = False
        self.post_init()

    def new_embedding(self, config: LatheLlamaConfig) -> nn.Embedding:
        """Builds the token embedding."""
        return nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)

    def rotations(self, hidden_states: torch.Tensor, position_ids: torch.Tensor) -> dict[bool, Any]:
        """Returns cosines and sines [B, S, rotated part of H] of layers without and with a window."""
        usual = self.rotary_emb(hidden_states, position_ids=position_ids)
        if not self.config.window_rope_parameters:
            return {False: usual, True: usual}
        return {False: usual, True: self.window_rotary_emb(hidden_states, position_ids=position_ids)}

    def masks(
        self, inputs_embeds: torch.Tensor, attention_mask: Any, position_ids: torch.Tensor, cache: Any
    ) -> dict[int, Any]:
        """Returns the attention mask of each window size among the layers; 0 stands for no window.

        It is a method so that tools that trace `forward`, such as llm-compressor, take it as one step.
        """
        made = {}
        for window in set(self.config.windows or [0]):
            made[window] = create_causal_mask(
                config=self.config,
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                position_ids=position_ids,
                and_mask_function=sliding_window_overlay(window) if window else None,
                **{CACHE: cache},
            )
        return made

    @merge_with_config_defaults  # type: ignore[untyped-decorator]
    @capture_outputs  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        check_known(kwargs)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        cache = one_cache(cache, past_key_values)
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if position_ids is None:
            past = cache.get_seq_length() if cache is not None else 0
            position_ids = (torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + past)[None]
        masks = self.masks(inputs_embeds, attention_mask, position_ids, cache)
        hidden_states, rotations = inputs_embeds, self.rotations(inputs_embeds, position_ids)
        for index, layer in enumerate(self.layers):
            window = self.config.window(index)
            hidden_states = layer(
                hidden_states,
                attention_mask=masks[window],
                position_embeddings=rotations[bool(window)],
                position_ids=position_ids,
                **{CACHE: cache},
                **kwargs,
            )
        return BaseModelOutputWithPast(self.norm(hidden_states), cache)


class LatheLlamaForCausalLM(SharedRows, LlamaForCausalLM):
    """The decoder with its language-model head."""

    config_class = LatheLlamaConfig
    decoder_class: Any = LatheLlamaModel
    _no_split_modules = ["LatheLlamaDecoderLayer"]

    def __init__(self, config: LatheLlamaConfig) -> None:
        super(LlamaForCausalLM, self).__init__(config)
        self.model = self.decoder_class(config)
        self.vocab_size = config.vocab_size
        self.lm_head = self.new_head(config)
        self.post_init()

    def new_head(self, config: Any) -> nn.Linear:
        """Builds the language-model head."""
        return nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @staticmethod
    def create_masks_for_generate(attention_mask: torch.Tensor | None = None, **_: Any) -> Any:
        """Returns the mask as it is: layers differ in their masks, which the model makes."""
        return attention_mask


__all__ = ["LatheLlamaForCausalLM", "LatheLlamaModel"]
