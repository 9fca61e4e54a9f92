"""Running single blocks of a decoder with any widths.

The modules are those of our exported model; their weights are passed in, so one skeleton layer serves every
layer, dense or pruned; `at` makes a runner for one layer where they differ in more than weights. A block is
split where reconstruction works: `*_context` gives the input of the output projection (o_proj, down_proj),
`project` applies that projection, `merge` adds what the block makes of it to the residual stream.

Between the blocks of a layer whose blocks are parallel, a state is the residual stream and, beside it, what
came into the layer: [B, T, 2D]. `stream` takes the first, blocks read the last.

Shapes: B windows, T tokens, D model width, N query heads, K KV heads, H head dim, F FFN channels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from lathe.artefact.plan import BlockKind
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.names import (
    ATTENTION_NORM,
    ATTENTION_OUTPUT_NORM,
    DOWN_PROJ,
    FFN_NORM,
    FFN_OUTPUT_NORM,
    FINAL_NORM,
    GATE_PROJ,
    K_PROJ,
    LAYER,
    O_PROJ,
    Q_PROJ,
    SHARE_PROJ,
    UP_PROJ,
)
from lathe.compressor.model.positions import PackedPositions, Positions

Weights = Mapping[str, torch.Tensor]
Past = tuple[Any, int]
"""A cache of transformers' for one layer, and the position after it."""
_NOTHING: Past = (None, 0)


class BlockRunner:
    """Runs attention and FFN blocks of one model from weights named relative to their layer."""

    def __init__(self, source: Checkpoint) -> None:
        from lathe.artefact.modeling import new_model

        config = {**source.config, "num_hidden_layers": 1, "no_rope_layers": None, "windows": None}
        if "per_layer_config" in config:  # a subnet's: weights say their widths themselves
            config |= {"per_layer_config": {}, "dropped_blocks": {"attention": [], "ffn": []}}
        model = new_model(source.family.exported_type, config | {"head_dim": source.shape.head_dim})
        self.shape = source.shape
        self._parallel = bool(source.config.get("parallel_blocks"))
        layer = model.get_submodule(LAYER.format(i=0))
        self._attention_path, o_name = O_PROJ.rsplit(".", 1)
        self._ffn_path, down_name = DOWN_PROJ.rsplit(".", 1)
        self._attention = layer.get_submodule(self._attention_path)
        self._ffn = layer.get_submodule(self._ffn_path)
        setattr(self._attention, o_name, nn.Identity())
        setattr(self._ffn, down_name, nn.Identity())
        self._ffn.whole = True  # of experts: all read every token
        self._layer = layer
        self._final_norm = model.get_submodule(FINAL_NORM)
        self._positions = Positions(source, model)
        self._watched: dict[str, tuple[torch.Tensor, torch.Tensor]] | None = None
        self._index: int | None = 0 if self._positions.alike else None

    def at(self, layer: int) -> BlockRunner:
        """A runner for the blocks of one layer; this one where all layers are alike."""
        if self._positions.alike:
            return self
        runner = copy.copy(self)
        runner._index = layer
        return runner

    @contextmanager
    def placed(self, positions: Positions) -> Iterator[None]:
        """Runs blocks, those of runners that `at` makes meanwhile too, with other positions and masks."""
        usual, self._positions = self._positions, positions
        try:
            yield
        finally:
            self._positions = usual

    def packed(self, at_BT: torch.Tensor, seen_BTT: torch.Tensor) -> Positions:
        """Returns positions of tokens that do not simply follow each other, for `placed`."""
        return PackedPositions(self._positions, at_BT, seen_BTT)

    @property
    def rotated_channels(self) -> int:
        """How many channels of a head of keys are rotated in this layer; see `Positions.rotated`."""
        return self._positions.rotated(self._layer_index) if self._attention.rotates else 0

    def stream(self, state: torch.Tensor) -> torch.Tensor:
        """Returns the residual stream [B, T, D] of a state."""
        return state[..., : self.shape.hidden_size]

    def attention_input(self, weights: Weights, state: torch.Tensor) -> torch.Tensor:
        return self._norm(weights, ATTENTION_NORM, self._incoming(state))

    def ffn_input(self, weights: Weights, state: torch.Tensor) -> torch.Tensor:
        return self._norm(weights, FFN_NORM, self._incoming(state))

    def block_input(self, kind: BlockKind, weights: Weights, state: torch.Tensor) -> torch.Tensor:
        """Returns what all matrices of a block but its output projection read, [B, T, D]."""
        return (self.attention_input if kind == "attention" else self.ffn_input)(weights, state)

    def attention_context(self, weights: Weights, state: torch.Tensor, past: Past = _NOTHING) -> torch.Tensor:
        """Returns the input of o_proj, [B, T, N*H], for as many heads as the weights have."""
        index, normed = self._layer_index, self.attention_input(weights, state)
        queries = weights[f"{Q_PROJ}.weight"].shape[0]
        self._attention.num_key_value_groups = queries // weights[f"{K_PROJ}.weight"].shape[0]
        return functional_call(
            self._attention,
            _under(weights, self._attention_path, O_PROJ),
            kwargs={
                "hidden_states": normed,
                "position_embeddings": self._positions.rotation(index, normed, past[1]),
                "attention_mask": self._positions.mask(index, normed, past[1]),
                "cache": past[0],
            },
            args=(),
        )[0]

    def ffn_context(self, weights: Weights, state: torch.Tensor) -> torch.Tensor:
        """Returns the input of down_proj, [B, T, F]; behind it routing weights, if experts have biases."""
        return functional_call(
            self._ffn,
            _under(weights, self._ffn_path, DOWN_PROJ),
            (self.ffn_input(weights, state),),
        )

    def ffn_module(self, weights: Weights) -> Any:
        """The dense FFN's module with its weights, but for the output projection."""
        module: Any = copy.deepcopy(self._ffn)
        module.load_state_dict(_under(weights, self._ffn_path, DOWN_PROJ), assign=True)
        return module

    def context(self, kind: BlockKind, weights: Weights, state: torch.Tensor) -> torch.Tensor:
        """Returns the input of a block's output projection, as `attention_context` or `ffn_context`."""
        return (self.attention_context if kind == "attention" else self.ffn_context)(weights, state)

    def finish(
        self, kind: BlockKind, weights: Weights, state: torch.Tensor, context: torch.Tensor
    ) -> torch.Tensor:
        """Returns the state after a block, from the input of its output projection."""
        return self.merge(kind, weights, state, self.project(weights, self._output(kind), context))

    def project(self, weights: Weights, name: str, context: torch.Tensor) -> torch.Tensor:
        weight, shares = weights[f"{name}.weight"], weights.get(f"{SHARE_PROJ}.weight")
        read, behind = context.tensor_split([weight.shape[1]], -1)
        output = nn.functional.linear(read, weight, weights.get(f"{name}.bias"))
        if shares is not None and name == DOWN_PROJ:
            output = output + nn.functional.linear(behind, shares)
        if self._watched is not None:
            self._watched[f"{name}.weight"] = (context, output)
        return output

    def merge(
        self, kind: BlockKind, weights: Weights, state: torch.Tensor, projected: torch.Tensor
    ) -> torch.Tensor:
        """The state after a block, from what its output projection gives."""
        after = self.stream(state) + self._norm(weights, self.after(kind), projected)
        return self._between(after, state) if kind == "attention" else after

    def attention(self, weights: Weights, state: torch.Tensor, past: Past = _NOTHING) -> torch.Tensor:
        """The state after an attention block; the stream is unchanged where the block was dropped."""
        if f"{O_PROJ}.weight" not in weights:
            return self._between(state, state)
        return self.finish("attention", weights, state, self.attention_context(weights, state, past))

    def ffn(self, weights: Weights, state: torch.Tensor) -> torch.Tensor:
        """The residual stream after an FFN block; unchanged where the block was dropped."""
        if f"{DOWN_PROJ}.weight" not in weights:
            return self.stream(state)
        return self.finish("ffn", weights, state, self.ffn_context(weights, state))

    def block(self, kind: BlockKind, weights: Weights, state: torch.Tensor) -> torch.Tensor:
        """The state after one block. kind: "attention" or "ffn"."""
        return self.attention(weights, state) if kind == "attention" else self.ffn(weights, state)

    def layer(self, weights: Weights, hidden_BTD: torch.Tensor, past: Past = _NOTHING) -> torch.Tensor:
        """The stream after both blocks. With a past, one token (or the first of all) goes on from it."""
        return self.ffn(weights, self.attention(weights, hidden_BTD, past))

    def after(self, kind: BlockKind) -> str:
        """The norm of what a block adds, where there is one."""
        return ATTENTION_OUTPUT_NORM if kind == "attention" else FFN_OUTPUT_NORM

    @property
    def _layer_index(self) -> int:
        if self._index is None:
            raise ValueError("layers differ in their positions: ask `at` for the runner of one")
        return self._index

    def _incoming(self, state: torch.Tensor) -> torch.Tensor:
        """Returns the input of a block before its norm, [B, T, D]."""
        return state[..., -self.shape.hidden_size :]

    def _between(self, stream_BTD: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """The state between the blocks of a layer that `state` came into."""
        return torch.cat([stream_BTD, state], -1) if self._parallel else stream_BTD

    def _norm(self, weights: Weights, name: str, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """Applies a norm; returns the value as it is if the model has no such norm."""
        if f"{name}.weight" not in weights:
            return hidden_BTD
        return functional_call(self._layer.get_submodule(name), _under(weights, name), hidden_BTD)

    def final_norm(self, norm: Weights, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """norm: its tensors, `weight` and perhaps `bias`."""
        return functional_call(self._final_norm, dict(norm), hidden_BTD)

    def projections(self, kind: BlockKind) -> list[str]:
        """Returns weight names of a block's linear layers, the output projection last.

        There are none for experts, whose names are in `expert_projections`.
        """
        if kind == "ffn" and self.shape.experts:
            return []
        return [f"{name}.weight" for name, _ in self._linears(kind)] + [self._output(kind) + ".weight"]

    def expert_projections(self) -> list[str]:
        """Weight names of the matrices that an FFN holds for all experts."""
        return [f"{name}.weight" for name in (GATE_PROJ, UP_PROJ, DOWN_PROJ)]

    @contextmanager
    def watch(
        self, kind: BlockKind, names: Collection[str] | None = None
    ) -> Iterator[dict[str, tuple[torch.Tensor, torch.Tensor]]]:
        """Records inputs and outputs of a block's matrices while it runs, by weight name.

        The matrices are its `projections`, or those called `names`.
        """
        seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

        def note(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
                seen[f"{name}.weight"] = (inputs[0], output)

            return hook

        watched = self.projections(kind) if names is None else names
        linears = [(name, module) for name, module in self._linears(kind) if f"{name}.weight" in watched]
        hooks = [module.register_forward_hook(note(name)) for name, module in linears]
        self._watched = seen if watched else None
        try:
            yield seen
        finally:
            self._watched = None
            for hook in hooks:
                hook.remove()

    def _linears(self, kind: BlockKind) -> list[tuple[str, nn.Module]]:
        path, module = (
            (self._attention_path, self._attention) if kind == "attention" else (self._ffn_path, self._ffn)
        )
        return [(f"{path}.{n}", m) for n, m in module.named_modules() if isinstance(m, nn.Linear)]

    def _output(self, kind: BlockKind) -> str:
        return O_PROJ if kind == "attention" else DOWN_PROJ


def _under(weights: Weights, path: str, but: str = " ") -> dict[str, torch.Tensor]:
    prefix = path + "."
    return {
        name[len(prefix) :]: value
        for name, value in weights.items()
        if name.startswith(prefix) and not name.startswith(but + ".")
    }
