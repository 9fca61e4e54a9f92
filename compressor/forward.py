"""Running single blocks of a decoder with any widths.

The modules are those of our exported model; their weights are passed in, so one skeleton layer serves every
layer, dense or cut; `at` makes a runner for one layer where they differ in more than weights. A block is
split where reform works: `*_context` gives the input of the output projection (o_proj, down_proj), `project`
applies that projection.

Shapes: B windows, T tokens, D model width, N query heads, K KV heads, H head dim, F FFN channels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.func import functional_call

from compressor.source import Source

Weights = Mapping[str, torch.Tensor]


class Embedding(Protocol):
    """What the first layer reads, by tokens [B, T]; a plain table [V, D] is one."""

    def __getitem__(self, tokens_BT: torch.Tensor, /) -> torch.Tensor: ...


@dataclass(frozen=True)
class PositionedEmbedding:
    """Tokens and learned positions. table: [V, D]. positions: one row for each."""

    table: torch.Tensor
    positions: torch.Tensor

    def __getitem__(self, tokens_BT: torch.Tensor, /) -> torch.Tensor:
        return self.table[tokens_BT] + self.positions[: tokens_BT.shape[-1]]


def embedding(source: Source, table: torch.Tensor) -> Embedding:
    """The embedding of a dense model whose table of tokens is given."""
    if not source.shape.positions:
        return table
    return PositionedEmbedding(table, source.tensor(f"{source.family.positions}.weight"))


class BlockRunner:
    """Runs attention and FFN blocks of one model from weights named relative to their layer."""

    def __init__(self, source: Source) -> None:
        from compressor.modeling import new_model

        config = {**source.config, "num_hidden_layers": 1, "no_rope_layers": None}
        model = new_model(source.family.exported_type, config | {"head_dim": source.shape.head_dim})
        self.family = source.family
        self.head_dim = source.shape.head_dim
        layer = model.get_submodule(self.family.layer.format(i=0))
        self._attention_path, o_name = self.family.o.rsplit(".", 1)
        self._ffn_path, down_name = self.family.down.rsplit(".", 1)
        self._attention = layer.get_submodule(self._attention_path)
        self._ffn = layer.get_submodule(self._ffn_path)
        setattr(self._attention, o_name, nn.Identity())
        setattr(self._ffn, down_name, nn.Identity())
        self._attention_norm = layer.get_submodule(self.family.attention_norm)
        self._ffn_norm = layer.get_submodule(self.family.ffn_norm)
        self._final_norm = model.get_submodule(self.family.final_norm)
        self._rotary = type(model.model.rotary_emb)(config=model.config)
        self._positions: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._watched: dict[str, tuple[torch.Tensor, torch.Tensor]] | None = None
        self._rotated: list[bool] = list(map(bool, source.config.get("no_rope_layers") or []))
        self._layer: int | None = None

    def at(self, layer: int) -> BlockRunner:
        """A runner for the blocks of one layer; this one where all layers are alike."""
        if all(self._rotated):
            return self
        runner = copy.copy(self)
        runner._layer = layer
        return runner

    def attention_input(self, weights: Weights, hidden_BTD: torch.Tensor) -> torch.Tensor:
        return functional_call(self._attention_norm, _under(weights, self.family.attention_norm), hidden_BTD)

    def ffn_input(self, weights: Weights, hidden_BTD: torch.Tensor) -> torch.Tensor:
        return functional_call(self._ffn_norm, _under(weights, self.family.ffn_norm), hidden_BTD)

    def attention_context(self, weights: Weights, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """[B, T, N*H]: what o_proj reads, for as many heads as the weights have."""
        normed = self.attention_input(weights, hidden_BTD)
        queries = weights[f"{self.family.q}.weight"].shape[0]
        self._attention.num_key_value_groups = queries // weights[f"{self.family.k}.weight"].shape[0]
        return functional_call(
            self._attention,
            _under(weights, self._attention_path, self.family.o),
            kwargs={
                "hidden_states": normed,
                "position_embeddings": self._rope(normed),
                "attention_mask": None,
            },
            args=(),
        )[0]

    def ffn_context(self, weights: Weights, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """[B, T, F]: what down_proj reads."""
        return functional_call(
            self._ffn,
            _under(weights, self._ffn_path, self.family.down),
            (self.ffn_input(weights, hidden_BTD),),
        )

    def project(self, weights: Weights, name: str, context: torch.Tensor) -> torch.Tensor:
        output = nn.functional.linear(context, weights[f"{name}.weight"], weights.get(f"{name}.bias"))
        if self._watched is not None:
            self._watched[f"{name}.weight"] = (context, output)
        return output

    def attention(self, weights: Weights, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """The residual stream after an attention block; unchanged where the block was dropped."""
        if f"{self.family.o}.weight" not in weights:
            return hidden_BTD
        return hidden_BTD + self.project(weights, self.family.o, self.attention_context(weights, hidden_BTD))

    def ffn(self, weights: Weights, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """The residual stream after an FFN block; unchanged where the block was dropped."""
        if f"{self.family.down}.weight" not in weights:
            return hidden_BTD
        return hidden_BTD + self.project(weights, self.family.down, self.ffn_context(weights, hidden_BTD))

    def layer(self, weights: Weights, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """The residual stream after both blocks."""
        return self.ffn(weights, self.attention(weights, hidden_BTD))

    def final_norm(self, norm: Weights, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """norm: its tensors, `weight` and perhaps `bias`."""
        return functional_call(self._final_norm, dict(norm), hidden_BTD)

    def projections(self, kind: str) -> list[str]:
        """Weight names of a block's linear layers, the output projection last."""
        return [f"{name}.weight" for name, _ in self._linears(kind)] + [self._output(kind) + ".weight"]

    @contextmanager
    def watch(self, kind: str) -> Iterator[dict[str, tuple[torch.Tensor, torch.Tensor]]]:
        """While a block runs: what each of its linear layers reads and gives, by weight name."""
        seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

        def note(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
                seen[f"{name}.weight"] = (inputs[0], output)

            return hook

        hooks = [module.register_forward_hook(note(name)) for name, module in self._linears(kind)]
        self._watched = seen
        try:
            yield seen
        finally:
            self._watched = None
            for hook in hooks:
                hook.remove()

    def _linears(self, kind: str) -> list[tuple[str, nn.Module]]:
        path, module = (
            (self._attention_path, self._attention) if kind == "attention" else (self._ffn_path, self._ffn)
        )
        return [(f"{path}.{n}", m) for n, m in module.named_modules() if isinstance(m, nn.Linear)]

    def _output(self, kind: str) -> str:
        return self.family.o if kind == "attention" else self.family.down

    def _rope(self, hidden_BTD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines by position. They outlive the call, which may be in inference mode; a later one
        may need gradients through them."""
        length = hidden_BTD.shape[1]
        if length not in self._positions:
            with torch.inference_mode(False):
                self._positions[length] = self._rotary(hidden_BTD, torch.arange(length)[None])
        cos, sin = self._positions[length]
        if all(self._rotated):
            return cos, sin
        if self._layer is None:
            raise ValueError("layers differ in their positions: ask `at` for the runner of one")
        return (cos, sin) if self._rotated[self._layer] else (torch.ones_like(cos), torch.zeros_like(sin))


def _under(weights: Weights, path: str, but: str = " ") -> dict[str, torch.Tensor]:
    prefix = path + "."
    return {
        name[len(prefix):]: value
        for name, value in weights.items()
        if name.startswith(prefix) and not name.startswith(but + ".")
    }
