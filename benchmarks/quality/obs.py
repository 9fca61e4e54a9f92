"""Optimal brain surgeon on blocks of inputs of a linear layer: what a removal costs, what a return gains.

The layer's weights W [D, n] are fitted to min ||W X - W0 X||^2 over the inputs in use, S, with Gram matrix
G = X X^T (damped): W_S = C_S^T (G_SS)^-1, C = G W0^T [n, D]. Hassibi and Stork 1993 for one input; blocks as
in ZipLM (arXiv 2302.04089), returns as in OSSCAR (arXiv 2403.12983). All float64.
"""

from __future__ import annotations

import torch

from lathe.compressor.compute.solve_each import solve_each


def solve(gram: torch.Tensor, cross: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fitted weights [D, n] and inverse Gram matrix [n, n] of inputs with cross moments [n, D]."""
    factor = torch.linalg.cholesky(gram)
    return torch.cholesky_solve(cross, factor).T, torch.cholesky_inverse(factor)


def removal_costs(weight: torch.Tensor, inverse: torch.Tensor, block: int) -> torch.Tensor:
    """[n / block]: growth of the squared error if a block of inputs went and the others were fitted anew."""
    if block == 1:
        return weight.square().sum(0) / inverse.diagonal()
    columns = weight.view(len(weight), -1, block).permute(1, 2, 0)
    return (columns * solve_each(_diagonal(inverse, block), columns)).sum((1, 2))


def remove(
    weight: torch.Tensor, inverse: torch.Tensor, stays: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fitted weights and inverse Gram matrix without some inputs. stays: [n] bool."""
    gone = ~stays
    factor = torch.linalg.solve(inverse[gone][:, gone], inverse[gone][:, stays])
    downdated = inverse[stays][:, stays] - inverse[stays][:, gone] @ factor
    return weight[:, stays] - weight[:, gone] @ factor, downdated


def return_gains(
    gram: torch.Tensor, cross: torch.Tensor, inside: torch.Tensor, outside: torch.Tensor, block: int
) -> torch.Tensor:
    """[len(outside) / block]: fall of the squared error if a block came back and all were fitted anew.

    inside, outside: column indices, those outside in whole blocks.
    """
    weight, inverse = solve(gram[inside][:, inside], cross[inside])
    link = gram[outside][:, inside]
    schur = gram[outside][:, outside] - link @ inverse @ link.T
    rest = cross[outside] - link @ weight.T
    if block == 1:
        return rest.square().sum(1) / schur.diagonal()
    rest = rest.view(-1, block, cross.shape[1])
    return (rest * solve_each(_diagonal(schur, block), rest)).sum((1, 2))


def _diagonal(matrix: torch.Tensor, block: int) -> torch.Tensor:
    """[n / block, block, block]: the blocks on the diagonal."""
    count = len(matrix) // block
    index = torch.arange(count)
    return matrix.view(count, block, count, block)[index, :, index, :]
