"""The magnitude baseline keeps the units whose weights have the largest norm."""

from __future__ import annotations

import numpy as np
import torch
from dense_reference import assert_same, dense, top, zero

from benchmarks.quality.setting import Setting, baselines
from lathe.compressor.model.names import DOWN_PROJ, GATE_PROJ, K_PROJ, O_PROJ, Q_PROJ, UP_PROJ, V_PROJ


def norms(weights: dict[str, torch.Tensor], rows: dict[str, slice], columns: dict[str, slice]) -> float:
    parts = [weights[f"{name}.weight"][at] for name, at in rows.items()]
    parts += [weights[f"{name}.weight"][:, at] for name, at in columns.items()]
    return float(np.linalg.norm(np.concatenate([p.double().numpy().ravel() for p in parts])))


def test_the_units_with_the_largest_norm_stay(setting: Setting) -> None:
    shape, widths = setting.shape, setting.uniform(0.6)
    per_group, model = shape.layer.heads_per_group * shape.head_dim, dense(setting)
    for index, weights in enumerate(setting.layers):
        groups = [
            norms(
                weights,
                {
                    Q_PROJ: slice(g * per_group, (g + 1) * per_group),
                    K_PROJ: slice(g * shape.head_dim, (g + 1) * shape.head_dim),
                    V_PROJ: slice(g * shape.head_dim, (g + 1) * shape.head_dim),
                },
                {O_PROJ: slice(g * per_group, (g + 1) * per_group)},
            )
            for g in range(shape.layer.kv_heads)
        ]
        channels = [
            norms(
                weights,
                dict.fromkeys((GATE_PROJ, UP_PROJ), slice(f, f + 1)),
                {DOWN_PROJ: slice(f, f + 1)},
            )
            for f in range(shape.layer.ffn)
        ]
        kept = top(np.array(groups), widths.kv_heads), top(np.array(channels), widths.ffn)
        zero(model, setting, index, *kept)
    assert_same(setting, baselines.get("magnitude")(setting, 0.6), model)
