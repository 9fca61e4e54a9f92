"""Configuration of an uneven Llama: widths per layer, blocks dropped.

This file is shipped inside checkpoints and imports nothing of Lathe.
"""

from __future__ import annotations

import re
from dataclasses import field
from typing import Any

import transformers
from transformers import LlamaConfig

BLOCKS = ("attention", "ffn")
_SHARED_BY_ROWS = re.compile(
    r"model\.layers\.(\d+)\.(?:self_attn\.(?:(q)|[kv])_proj|mlp\.(?:gate|up)_proj)\.(?:weight|bias)"
)
OLDEST = (5, 17)
"""The oldest transformers that these files were tested with."""


def check_version(version: str) -> None:
    """Checks that this version of transformers can load the model.

    Raises:
        ImportError: The version is too old.
    """
    if tuple(map(int, version.split(".")[:2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ImportError(
            f"this checkpoint needs transformers {oldest} or newer; here is {version}: "
            f"pip install 'transformers>={oldest}'"
        )


check_version(transformers.__version__)

from huggingface_hub.dataclasses import strict  # noqa: E402  older versions lack it


@strict
class LatheLlamaConfig(LlamaConfig):
    """A Llama whose layers differ in width.

    The usual attributes hold the dense model's widths. `per_layer_config` (transformers' convention)
    overrides `num_attention_heads`, `num_key_value_heads` and `intermediate_size` by layer index;
    `dropped_blocks` lists the layers that have no `attention` or no `ffn` block, their norms included.

    Other families are this model with further settings:

    - `qkv_bias`: q, k and v have biases, whatever `attention_bias` says.
    - `qk_norm`: Queries and keys are normalised head by head; with `qk_norm_whole` all heads together.
    - `norm_before`, `norm_after`: A norm is applied to the input of each block, and to its output.
    - `no_rope_layers`: The list has a 0 for each layer without rotary positions.
    - `windows`: The list has the number of tokens that each layer attends to, the current one included; 0
      stands for all. (`layer_types` of transformers would also number the caches of layers without
      attention.)
    - `window_rope_parameters`: Layers with a window have these rotary positions instead of the usual ones.

    `shared_rows` says that other models read the weight files, too, and that tensors there may have more rows
    than this model's, whose own come first (`rows`).
    """

    model_type = "lathe_llama"

    dropped_blocks: dict[str, list[int]] = field(default_factory=dict)
    qkv_bias: bool = False
    qk_norm: bool = False
    qk_norm_whole: bool = False
    norm_before: bool = True
    norm_after: bool = False
    no_rope_layers: list[int] | None = None
    windows: list[int] | None = None
    window_rope_parameters: dict[str, Any] | None = None
    shared_rows: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        self.dropped_blocks = {**{block: [] for block in BLOCKS}, **self.dropped_blocks}
        self.allow_global_per_layer_attribute_access = True
        super().__post_init__(**kwargs)

    def has_block(self, block: str, layer: int) -> bool:
        """Returns whether `layer` has its `attention` or `ffn` block."""
        return layer not in self.dropped_blocks[block]

    def has_positions(self, layer: int) -> bool:
        """Returns whether the queries and keys of `layer` are rotated."""
        return self.no_rope_layers is None or bool(self.no_rope_layers[layer])

    def window(self, layer: int) -> int:
        """Returns the number of tokens that `layer` attends to; 0 stands for all."""
        return self.windows[layer] if self.windows else 0

    def rope(self, layer: int) -> Any:
        """Returns the parameters of the rotary positions of `layer`."""
        others = self.window_rope_parameters if self.window(layer) else None
        return others or self.rope_parameters

    def rows(self, tensor: str) -> int | None:
        """Returns the rows that this model has of a tensor of its checkpoint.

        None: Files of several models have no more rows of it than each of them.
        """
        found = _SHARED_BY_ROWS.fullmatch(tensor)
        if not found:
            return None
        widths = self.per_layer_config[int(found[1])]
        if ".mlp." in tensor:
            return int(widths.intermediate_size)
        heads = widths.num_attention_heads if found[2] else widths.num_key_value_heads
        return int(heads * self.head_dim)

    def validate_architecture(self) -> None:
        """Checks that head counts divide in every layer, and that `dropped_blocks` names blocks that exist.

        Raises:
            ValueError: They do not.
        """
        unknown = sorted(set(self.dropped_blocks) - set(BLOCKS))
        if unknown:
            raise ValueError(f"`dropped_blocks` has unknown blocks {unknown}; known: {list(BLOCKS)}")
        for block, layers in self.dropped_blocks.items():
            if any(not 0 <= layer < self.num_hidden_layers for layer in layers):
                raise ValueError(f"`dropped_blocks` drops {block} of layers that do not exist: {layers}")
        for index, layer in enumerate(self.per_layer_config):
            if layer.num_attention_heads % layer.num_key_value_heads:
                raise ValueError(
                    f"layer {index}: {layer.num_attention_heads} query heads are not a multiple of its "
                    f"{layer.num_key_value_heads} KV heads"
                )

    def validate_token_ids(self) -> None:
        """Runs the usual check with the global widths hidden.

        It reads every attribute and would warn of them.
        """
        self.allow_global_per_layer_attribute_access = False
        try:
            super().validate_token_ids()
        finally:
            self.allow_global_per_layer_attribute_access = True


__all__ = ["LatheLlamaConfig"]
