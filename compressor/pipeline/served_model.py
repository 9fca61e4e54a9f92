"""An artefact of a run as a model to score: its checkpoint, or its graph where that has other values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lathe.artefact.errors import UserError
from lathe.artefact.modeling import register
from lathe.artefact.modeling.load import load_model
from lathe.artefact.plan import Plan
from lathe.compressor.evaluate.onnx import OnnxModel
from lathe.compressor.export.artefact import export_of_artefact
from lathe.compressor.export.base import exporters
from lathe.compressor.model.block_runner import BlockRunner
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.pipeline.graph_engines import graph_model, installed
from lathe.compressor.pipeline.run_context import RunContext


def checkpoint_model(context: RunContext, runner: BlockRunner, plan: Plan, artefact: Path) -> Any:
    """Loads an artefact's checkpoint, layer by layer where memory does not hold it.

    Args:
        context: The run.
        runner: Of the dense model.
        plan: What was exported.
        artefact: Its directory.

    Raises:
        UserError: it does not have as many parameters as the plan.
    """
    register()
    model: Any
    if not context.preflight.memory.loads_whole:
        source = export_of_artefact(artefact).source
        loaded = sum(torch.Size(entry.shape).numel() for entry in source.index.values())
        model = LayeredModel.open(source, context.store, runner)
    else:
        model = load_model(artefact)
        loaded = sum(p.numel() for p in model.parameters())
    planned = context.preflight.source.shape.parameters(plan)
    if loaded != planned:
        raise UserError(f"the reloaded checkpoint has {loaded:,} parameters where the plan has {planned:,}")
    return model


def served_model(context: RunContext, runner: BlockRunner, plan: Plan, artefact: Path) -> Any:
    """Loads an artefact with the values that are served.

    Where weights are rounded or the KV cache is int8, these are the graph's, if its engine is here.
    """
    graph = exporters.get(context.options.graph) if context.options.graph else None
    if graph and graph.rounds(plan) and installed(graph.graph):
        return graph_model(graph, artefact)
    if context.options.int8_cache:
        return OnnxModel(artefact)
    return checkpoint_model(context, runner, plan, artefact)
