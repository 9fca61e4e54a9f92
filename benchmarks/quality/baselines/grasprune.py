"""GRASPrune (Wang et al., ACL 2026, arXiv 2604.19398): gates trained under a budget; it is not training-free.

Every FFN channel and KV group has a gate p = sigmoid(score / 1.5). Before each step the gates are projected
onto the budget: units are taken by p (not by p over cost) while their parameters fit, a KV group of G query
heads costing (2 G + 2) d / 3 channels. The forward pass has the hard mask, the backward pass the slope of p
(straight through); a group's gate multiplies its keys and values, a channel's what down_proj reads. Weights
stay as they are. Then the mask is fixed, and a scale 1 + tanh(s) / 2 of each unit that stays is trained
from 1, and folded into k, v and down.

Settings are those of the authors' code (ZiY-Wang/GRASPrune): one sequence of 512 tokens a step, four epochs
over at most 512 of them, one for scales; AdamW with 1e-2 and betas of 0.9 and 0.99; a block keeps its best
unit. Here the calibration text says how many sequences there are: `gate_steps` and `scale_steps` count them.
The code trains scales on its validation text. Chosen here: equal gates are ordered by a draw; what the next
unit does not fit goes to cheaper ones; where keys are normed, which undoes a scale, only values are gated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from benchmarks.quality.setting import Setting, Subnet, baselines
from benchmarks.quality.unit_table import UnitTable
from lathe.artefact.plan import Plan
from lathe.compressor.model.block_runner import Weights
from lathe.compressor.model.names import DOWN_PROJ, K_PROJ, V_PROJ

_TEMPERATURE = 1.5
_RATE, _BETAS = 1e-2, (0.9, 0.99)
_SEQUENCES, _EPOCHS, _SCALE_EPOCHS = 512, 4, 1
_SCALE = 0.5


@baselines.register("grasprune")
def grasprune(setting: Setting, keep: float) -> Subnet:
    table = UnitTable.of(setting)
    scores, steps = train_gates(setting, table, keep)
    chosen = table.selections(project(setting, table, scores, keep))
    pruned: list[Weights] = [setting.prune(index, part) for index, part in enumerate(chosen)]
    layers, scale_steps = pruned, 0
    if keep < 1:
        layers, scale_steps = calibrated(setting, pruned)
    return setting.subnet(
        layers,
        plan=Plan(tuple(part.shape for part in chosen)),
        facts={"trained": "gates and scales", "gate_steps": steps, "scale_steps": scale_steps},
    )


def train_gates(setting: Setting, table: UnitTable, keep: float) -> tuple[torch.Tensor, int]:
    """Scores of all gates [U] after training, and the steps it took."""
    scores = torch.zeros(len(table), requires_grad=True)

    def gates() -> list[torch.Tensor]:
        p = torch.sigmoid(scores / _TEMPERATURE)
        return table.blocks(project(setting, table, scores.detach(), keep) + (p - p.detach()))

    steps = _train(setting, setting.layers, [scores], gates, _EPOCHS if keep < 1 else 0)
    return scores.detach(), steps


def project(setting: Setting, table: UnitTable, scores: torch.Tensor, keep: float) -> torch.Tensor:
    """Bool [U]: the units that stay, each block's best among them."""
    generator = torch.Generator().manual_seed(setting.seed)
    drawn, ranked = torch.randperm(len(table), generator=generator), scores.clone()
    for block in table.blocks(ranked):
        block[block.argmax()] += 2 * (1 + scores.abs().max())
    order = drawn[ranked[drawn].argsort(descending=True, stable=True)]
    return table.first(order, keep * setting.dense_parameters)


def calibrated(setting: Setting, layers: Sequence[Weights]) -> tuple[list[Weights], int]:
    """Layers with trained scales folded in, and the steps it took."""
    head_dim, raw = setting.shape.head_dim, []
    for weights in layers:
        widths = len(weights[f"{K_PROJ}.weight"]) // head_dim, weights[f"{DOWN_PROJ}.weight"].shape[1]
        raw += [torch.zeros(width, requires_grad=True) for width in widths]

    def scales() -> list[torch.Tensor]:
        return [1 + _SCALE * torch.tanh(one) for one in raw]

    steps = _train(setting, layers, raw, scales, _SCALE_EPOCHS)
    found = [scale.detach() for scale in scales()]
    return [
        _gated(setting, weights, groups) | {_DOWN: weights[_DOWN] * channels}
        for weights, groups, channels in zip(layers, found[::2], found[1::2], strict=True)
    ], steps


_DOWN = f"{DOWN_PROJ}.weight"


def _train(
    setting: Setting,
    layers: Sequence[Weights],
    parameters: list[torch.Tensor],
    gates: Callable[[], list[torch.Tensor]],
    epochs: int,
) -> int:
    """Trains what gates are made of on the loss in predicting the text; returns the number of steps."""
    optimizer, steps = torch.optim.AdamW(parameters, _RATE, _BETAS, weight_decay=0.0), 0
    for tokens in _sequences(setting, epochs):
        found, hidden = gates(), setting.embed(tokens)
        for index, weights in enumerate(layers):
            hidden = _layer(setting, index, weights, found[2 * index : 2 * index + 2], hidden)
        optimizer.zero_grad()
        hidden.backward(setting.head.loss_gradient(tokens, hidden.detach())[1])
        optimizer.step()
        steps += 1
    return steps


def _sequences(setting: Setting, epochs: int) -> Iterator[torch.Tensor]:
    """[1, T] each, in another order each epoch."""
    generator = torch.Generator().manual_seed(setting.seed)
    windows = setting.fit[:_SEQUENCES]
    for _ in range(epochs):
        for at in torch.randperm(len(windows), generator=generator).tolist():
            yield windows[at : at + 1]


def _layer(
    setting: Setting, index: int, weights: Weights, gates: list[torch.Tensor], hidden_BTD: torch.Tensor
) -> torch.Tensor:
    """[B, T, D] after a layer whose units are multiplied by gates."""
    runner, (groups, channels) = setting.runner.at(index), gates
    state = runner.attention(_gated(setting, weights, groups), hidden_BTD)
    context = runner.ffn_context(weights, state) * channels
    return runner.merge("ffn", weights, state, runner.project(weights, DOWN_PROJ, context))


def _gated(setting: Setting, weights: Weights, groups: torch.Tensor) -> dict[str, torch.Tensor]:
    """A layer's tensors with keys and values of each KV group multiplied by its gate."""
    rows, gated = groups.repeat_interleave(setting.shape.head_dim), dict(weights)
    normed = setting.shape.qk_norm or setting.shape.qk_norm_whole
    for name in (V_PROJ,) if normed else (K_PROJ, V_PROJ):
        gated[f"{name}.weight"] = weights[f"{name}.weight"] * rows[:, None]
        if f"{name}.bias" in weights:
            gated[f"{name}.bias"] = weights[f"{name}.bias"] * rows
    return gated
