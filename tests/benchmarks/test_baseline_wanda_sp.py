"""Wanda-sp scores columns by |W| * ||X|| on what the layers already pruned hand on."""

from __future__ import annotations

import numpy as np
from dense_reference import assert_same, dense, read, top, zero

from benchmarks.quality.setting import Setting, baselines


def test_columns_are_scored_on_the_output_of_pruned_layers(setting: Setting) -> None:
    widths, model = setting.uniform(0.5), dense(setting)
    for index, block in enumerate(model.model.layers):
        attention, ffn = read(model, index, setting.fit)
        heads, channels = (
            (np.abs(projection.weight.detach().numpy()) * np.linalg.norm(x, axis=0)).sum(0)
            for projection, x in ((block.self_attn.o_proj, attention), (block.mlp.down_proj, ffn))
        )
        groups = heads.reshape(setting.shape.layer.kv_heads, -1).sum(1)
        zero(model, setting, index, top(groups, widths.kv_heads), top(channels, widths.ffn))
    assert_same(setting, baselines.get("wanda-sp")(setting, 0.5), model)
