"""A real model cut to uneven layers, in llama.cpp against transformers: REAL_MODEL says where it is."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("llama_cpp")

from lathe.artefact.gguf_suffix import MODEL_FILE
from lathe.artefact.llamacpp.runner import LlamaCppRunner
from lathe.artefact.modeling import register
from lathe.artefact.modeling.load import load_model
from lathe.artefact.plan import LayerShape, Plan
from lathe.artefact.tokenizer import open_tokenizer
from lathe.compressor.export import Export, exporters
from lathe.compressor.export.checkpoint import export_checkpoint
from lathe.compressor.model.checkpoint import open_checkpoint
from lathe.compressor.model.names import layer_prefix
from lathe.compressor.model.pruning import ImportanceRanking, prune_attention, prune_ffn, select

REAL = os.environ.get("REAL_MODEL", "")
PROMPT = "The library lends books to everyone who lives nearby, and readers return them after"
NEW, NEAR = 32, 1e-4

pytestmark = pytest.mark.skipif(not REAL, reason="REAL_MODEL names no checkpoint")


def uneven(widths: LayerShape, layers: int) -> Plan:
    """Every kind of unevenness: groups, widths in steps of 16, a block or both left out."""
    chosen, groups = random.Random(5), widths.heads_per_group
    found = []
    for _ in range(layers):
        kv_heads = chosen.randint(1, widths.kv_heads)
        ffn = widths.ffn * chosen.randint(9, 16) // 16 // 16 * 16
        found.append(LayerShape(kv_heads * groups, kv_heads, ffn))
    found[layers // 5] = LayerShape(0, 0, widths.ffn)
    found[layers // 3] = LayerShape(widths.query_heads, widths.kv_heads, 0)
    found[layers // 2] = LayerShape(0, 0, 0)
    return Plan(tuple(found))


def cut(plan: Plan) -> Export:
    """The first groups, heads and channels of each layer."""
    source = open_checkpoint(REAL)
    widths, tensors = source.shape.layer, dict[str, torch.Tensor]()
    order = ImportanceRanking(
        torch.arange(widths.kv_heads),
        torch.arange(widths.query_heads).view(widths.kv_heads, -1),
        torch.arange(widths.ffn)[None],
        torch.arange(0),
    )
    for index, shape in enumerate(plan):
        dense, kept = source.layer(index), select(order, shape)
        layer = prune_attention(source.shape, dense, kept) | prune_ffn(dense, kept)
        tensors |= {layer_prefix(index) + name: value for name, value in layer.items()}
    return Export(source, plan, lambda name: tensors[name] if name in tensors else source.tensor(name))


def test_an_uneven_cut_gives_the_logits_and_the_text_of_transformers(tmp_path: Path) -> None:
    """In float32 both round: llama.cpp may be off from float64 as transformers is, and not more."""
    shape = open_checkpoint(REAL).shape
    job = cut(uneven(shape.layer, shape.num_layers))
    export_checkpoint(tmp_path, job)
    exporters.get("gguf-f32").write(tmp_path, job)
    register()
    model, tokenizer = load_model(tmp_path), open_tokenizer(tmp_path)
    prompt = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    runner = LlamaCppRunner(tmp_path / MODEL_FILE, max_batch=1, max_length=256, threads=1, cache="f32")
    found = runner.prefill(0, prompt[0].numpy(), "all")
    with torch.inference_mode():
        written = model.generate(prompt, max_new_tokens=NEW, do_sample=False)[0, prompt.shape[1] :]
        rounded = model(prompt).logits[0].numpy()
        exact = model.double()(prompt).logits[0].numpy()
    own, theirs = (float(np.abs(logits - exact).max()) for logits in (found, rounded))
    figures = {"llama.cpp": own, "transformers": theirs, "apart": float(np.abs(found - rounded).max())}
    sys.stderr.write(f"largest logit {np.abs(exact).max():.1f}; from float64: {figures}\n")
    assert own <= 2 * max(theirs, NEAR)
    tokens = [int(found[-1].argmax())]
    while len(tokens) < len(written):
        tokens.append(int(runner.decode(np.array(tokens[-1:]))[0].argmax()))
    assert tokens == written.tolist()
