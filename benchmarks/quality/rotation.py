"""What a rotation of values and outputs would give: narrower V and O of every head, or fewer heads?

    python -m benchmarks.quality.rotation --model path --text calibration.txt

Nothing rotates between V and O, so in every KV group V may be turned by an orthogonal matrix and O turned
back. The first r of the turned dimensions, chosen by the output they carry (eigenvectors of
sum_h G_h^1/2 O_h^T O_h G_h^1/2 over the group's heads, G_h the Gram of a head's context), are a V of width r.
Against it: as many parameters less by whole KV groups, backward elimination. O is re-solved in both
(closed form). Prints the squared error of the block's output, relative to its size, layer by layer.
No serving engine takes a V narrower than K, so nothing of this is exported.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median

import torch

from benchmarks.quality.product import Product, options_for
from benchmarks.quality.setting import Setting
from lathe.compressor.compute.progress import Progress
from lathe.compressor.model.names import O_PROJ
from lathe.compressor.model.pruning import rows
from lathe.compressor.reconstruction import damped

_DAMPING = 1e-4


def turned(setting: Setting, layer: int, width: int) -> torch.Tensor:
    """[n, n / H * width]: contexts of all heads times this are contexts with V `width` wide."""
    shape, weight, gram = setting.shape, _output(setting, layer), setting.statistics[layer].attention
    size, per_group = shape.head_dim, shape.layer.heads_per_group
    basis = torch.zeros(len(gram), len(gram) // size * width, dtype=torch.float64)
    for group in range(shape.layer.kv_heads):
        heads = range(group * per_group, (group + 1) * per_group)
        carried = torch.zeros(size, size, dtype=torch.float64)
        for head in heads:
            at = slice(head * size, (head + 1) * size)
            values, vectors = torch.linalg.eigh(gram[at, at])
            root = vectors * values.clamp_min(0).sqrt() @ vectors.T
            carried += root @ weight[:, at].T @ weight[:, at] @ root
        best = torch.linalg.eigh(carried).eigenvectors[:, -width:]
        for head in heads:
            basis[head * size : (head + 1) * size, head * width : (head + 1) * width] = best
    return basis


def dropped(setting: Setting, product: Product, layer: int, groups: int) -> torch.Tensor:
    """[n, columns kept] of the first `groups` groups of the elimination order."""
    shape, order = setting.shape, product.calibration.rankings[layer]
    heads = order.heads[order.groups[:groups].sort().values].sort(1).values.reshape(-1)
    gram = setting.statistics[layer].attention
    return torch.eye(len(gram), dtype=torch.float64)[:, rows(heads, shape.head_dim)]


def error(setting: Setting, layer: int, basis: torch.Tensor) -> float:
    """Of the best output projection that reads contexts times `basis`, on held-out text."""
    stats, weight = setting.statistics[layer], _output(setting, layer)
    gram = damped(stats.attention, _DAMPING)
    solved = torch.linalg.solve(basis.T @ gram @ basis, basis.T @ gram @ weight.T).T
    left = weight - solved @ basis.T
    held = stats.attention_heldout
    return float(((left @ held) * left).sum() / ((weight @ held) * weight).sum())


def _output(setting: Setting, layer: int) -> torch.Tensor:
    return setting.layers[layer][f"{O_PROJ}.weight"].double()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", default="self")
    parser.add_argument("--tokens", type=int, default=32_768)
    args = parser.parse_args()
    options = options_for(args.model, args.text, args.tokens, 0, Path("build/bench/work"))
    product = Product.open(options, Progress())
    setting = product.setting()
    shape = setting.shape
    groups, size = shape.layer.kv_heads, shape.head_dim
    width = max(1, size - round(2 * size / groups))
    print(f"one of {groups} KV groups fewer, or V and O {width} of {size} wide: as many parameters")
    ratios = []
    for layer in range(shape.num_layers):
        fewer = error(setting, layer, dropped(setting, product, layer, groups - 1))
        narrower = error(setting, layer, turned(setting, layer, width))
        ratios.append(narrower / fewer)
        print(f"layer {layer}: one group fewer {fewer:.4f}, narrower V and O {narrower:.4f}")
    print(f"median ratio, narrower over fewer: {median(ratios):.2f}")
    product.context.run_dir.close()


if __name__ == "__main__":
    main()
