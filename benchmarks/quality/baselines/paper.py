"""Search for Efficient Large Language Models (Shen et al., NeurIPS 2024, arXiv 2409.17372), as printed.

Initial masks by Eq. 1 to 3 at one uniform ratio; Table 1's search space (a ratio for every attention head,
one for every FFN, the depth); mutation, crossing and 5,000 candidates as in Sec. 3.3 and 4.1; fitness is the
perplexity of the unreformed candidate on a few calibration samples; the winner's o and down projections are
reconstructed once by ADMM (rho 1, 30 iterations). `compress --method paper` is this with whole heads only.

Chosen here, because the paper leaves it open:
- One ratio per KV group, in RoPE pairs, with the dense frequencies and softmax scale (masks.py).
- Table 1's LLaMA-7B column, interpolated between its rows; its 0.3 at 70 % is taken for 0.7. Below 50 % the
  ratios' lower ends go to zero with the budget.
- `paper` mutates masks by keeping a random 80 % of the set and refilling the rest. `paper-literal` draws
  random sets until the overlap is 0.8 of the FULL width, at most 1,000 times, and keeps the old set (with
  its old ratio) when none was: Alg. 1 to the letter. `mask_draws` and `mask_draws_failed` count both ways
  of ending, rejected candidates included. At 80 % only the start is in range (an FFN of 80 % can never
  change, and heads only widen); at 50 % no mask ever changes.
- The parameter range that candidates must fall in: 98 to 100 % of the budget.
- Fitness samples: four calibration windows drawn by the seed, their first 192 tokens.
- A depth mutation leaves out, or takes back, any one layer; the released code only drops the last ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from benchmarks.quality.masks import LayerMask, Masks
from benchmarks.quality.setting import Setting, Subnet, baselines
from lathe.compressor.importance.paper import unit_scores
from lathe.compressor.search.published import EVALUATIONS, SIMILARITY, Breeding, Effort, evolve, resample

KEEPS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
LOWEST_ATTENTION = (0.0, 0.6, 0.6, 0.7, 0.8, 0.9, 1.0)
LOWEST_FFN = (0.0, 0.1, 0.1, 0.2, 0.4, 0.6, 1.0)
LOWEST_DEPTH = (28 / 32, 28 / 32, 28 / 32, 30 / 32, 1.0, 1.0, 1.0)
_ATTENTION_STEP, _FFN_STEP = 0.01, 0.05
_FLOOR = 0.98
_SAMPLES, _LENGTH = 4, 192
_DRAWS = 1000

Sampler = Callable[[torch.Tensor, int, int], torch.Tensor]
"""(kept units, of how many, how many to keep) -> kept units, ascending."""


@baselines.register("paper")
def paper(setting: Setting, keep: float) -> Subnet:
    generator = torch.Generator().manual_seed(setting.seed)

    def sampler(kept: torch.Tensor, width: int, size: int) -> torch.Tensor:
        return resample(kept, width, size, SIMILARITY, generator)

    return _search(setting, keep, sampler)


@baselines.register("paper-literal")
def literal(setting: Setting, keep: float) -> Subnet:
    sampler = RejectionSampler(setting.seed)
    subnet = _search(setting, keep, sampler)
    counts = {"mask_draws": sampler.asked, "mask_draws_failed": sampler.failed}
    return replace(subnet, facts=subnet.facts | counts)


class RejectionSampler:
    """Alg.

    1 as printed. The overlap of a random subset with the kept set is hypergeometric, so that the tries are
    drawn as overlaps, and only the one that succeeds as a set.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.asked = self.failed = 0

    def __call__(self, kept: torch.Tensor, width: int, size: int) -> torch.Tensor:
        self.asked += 1
        overlap = self._overlap(len(kept), width, size)
        if overlap is None:
            self.failed += 1
            return kept
        inside = kept.numpy()
        outside = np.setdiff1d(np.arange(width), inside)
        drawn = self._random.choice(inside, overlap, replace=False)
        fill = self._random.choice(outside, size - overlap, replace=False)
        return torch.from_numpy(np.sort(np.concatenate([drawn, fill])))

    def _overlap(self, kept: int, width: int, size: int) -> int | None:
        """Of the first draw that is similar enough."""
        if min(kept, size) < SIMILARITY * width:
            return None
        overlaps = self._random.hypergeometric(kept, width - kept, size, _DRAWS)
        found = overlaps[overlaps >= SIMILARITY * width]
        return int(found[0]) if len(found) else None


def _search(setting: Setting, keep: float, sampler: Sampler) -> Subnet:
    breeder, effort = Breeder(setting, keep, sampler), Effort.of(setting.evaluations or EVALUATIONS)
    with setting.progress.stage("the paper's evolution", effort.total) as bar:
        best = evolve(
            breeder,
            effort,
            lambda masks, _epoch: breeder.loss(masks),
            bar.advance,
            lambda loss: bar.note(f"loss {loss:.4f} nats/token"),
        )
    shape, masks = setting.shape, best.candidate
    layers = [
        mask.reconstructed(shape, dense, statistics)
        for mask, dense, statistics in zip(masks.layers, setting.layers, setting.statistics, strict=True)
    ]
    subnet = setting.subnet(layers, candidates=best.evaluated, facts=_facts(masks, best.fitness))
    return replace(subnet, parameters=masks.parameters(shape))


def _facts(masks: Masks, fitness: float) -> dict[str, object]:
    """Fitness in nats per token, and what is kept layer by layer; none for a layer left out.

    That is the dims of every KV head, and the channels.
    """
    return {
        "fitness": fitness,
        "head_dims": [[2 * len(p) for p in m.pairs] if m.alive else [] for m in masks.layers],
        "ffn": [len(m.channels) if m.alive else 0 for m in masks.layers],
    }


class Breeder(Breeding[Masks]):
    """Makes candidates of Table 1's space within the parameter range, and evaluates them."""

    def __init__(self, setting: Setting, keep: float, sampler: Sampler) -> None:
        super().__init__(setting.seed)
        self._setting, self._sampler = setting, sampler
        self._budget, self._keep = keep * setting.dense_parameters, keep
        self._pairs, self._channels = setting.shape.head_dim // 2, setting.shape.layer.ffn
        lowest = (np.interp(keep, KEEPS, low) for low in (LOWEST_ATTENTION, LOWEST_FFN, LOWEST_DEPTH))
        self._lowest_attention, self._lowest_ffn, depth = map(float, lowest)
        self._lowest_depth = int(depth * setting.shape.num_layers)
        order = torch.randperm(len(setting.fit), generator=torch.Generator().manual_seed(setting.seed))
        self._windows = setting.fit[order[:_SAMPLES], :_LENGTH]

    def uniform(self) -> Masks:
        """The heads' ratio is that of the target, as far as Table 1 allows it; FFNs fill the budget."""
        setting, shape = self._setting, self._setting.shape
        scores = [
            unit_scores(weights, statistics)
            for weights, statistics in zip(setting.layers, setting.statistics, strict=True)
        ]
        kept = _size(max(self._keep, self._lowest_attention), self._pairs)

        def masks(kept: int, width: int) -> Masks:
            layers = []
            for score in scores:
                by_head = score.kv.view(-1, 2, self._pairs).sum(1)
                by_head = by_head + score.query.view(len(by_head), -1, 2, self._pairs).sum((1, 2))
                pairs = tuple(_best(row, kept) for row in by_head)
                layers.append(LayerMask(pairs, _best(score.channels, width)))
            return Masks(tuple(layers))

        while kept > 1 and masks(kept, 1).parameters(shape) > self._budget:
            kept -= 1
        one, two = (masks(kept, width).parameters(shape) for width in (1, 2))
        width = self._channels if two == one else 1 + int((self._budget - one) // (two - one))
        return masks(kept, min(max(width, 1), self._channels))

    def mutate(self, parent: Masks, mask: float, ratio: float, depth: float) -> Masks:
        layers = [self._mutated(layer, mask, ratio) for layer in parent.layers]
        if self.rng.random() < depth:
            at = self.rng.randrange(len(layers))
            layers[at] = replace(layers[at], alive=not layers[at].alive)
        return Masks(tuple(layers))

    def cross(self, first: Masks, second: Masks) -> Masks:
        return Masks(tuple(self.rng.choice(pair) for pair in zip(first.layers, second.layers, strict=True)))

    def in_range(self, candidate: Masks) -> bool:
        used = candidate.parameters(self._setting.shape) / self._budget
        return _FLOOR <= used <= 1 and sum(m.alive for m in candidate.layers) >= self._lowest_depth

    @torch.inference_mode()
    def loss(self, masks: Masks) -> float:
        """Nats per token on the fitness samples, weights as they were."""
        setting = self._setting
        layers = [
            mask.weights(setting.shape, dense)
            for mask, dense in zip(masks.layers, setting.layers, strict=True)
        ]
        return setting.loss(layers, self._windows)

    def _mutated(self, layer: LayerMask, mask: float, ratio: float) -> LayerMask:
        pairs = tuple(
            self._redrawn(kept, self._pairs, self._lowest_attention, _ATTENTION_STEP, mask, ratio)
            for kept in layer.pairs
        )
        channels = self._redrawn(layer.channels, self._channels, self._lowest_ffn, _FFN_STEP, mask, ratio)
        return LayerMask(pairs, channels, layer.alive)

    def _redrawn(
        self, kept: torch.Tensor, width: int, lowest: float, step: float, mask: float, ratio: float
    ) -> torch.Tensor:
        """One unit of Table 1: a new ratio with probability `ratio`, then Alg. 1."""
        size = len(kept)
        if self.rng.random() < ratio:
            size = _size(lowest + step * self.rng.randint(0, int((1 - lowest) / step + 1e-9)), width)
        if size == len(kept) and self.rng.random() > mask:
            return kept
        return self._sampler(kept, width, size)


def _size(ratio: float, width: int) -> int:
    return min(width, max(1, round(ratio * width)))


def _best(scores: torch.Tensor, count: int) -> torch.Tensor:
    return scores.topk(count).indices.sort().values
