"""How far what is made of a subnet is from transformers' own model.

For every family, and for what is stored in other ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModelForCausalLM

from lathe.artefact.errors import UserError
from lathe.artefact.modeling import register
from lathe.artefact.onnx.runner import OnnxRunner
from lathe.artefact.plan import Plan
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.export import Export, exporters
from lathe.compressor.export.checkpoint import export_checkpoint
from lathe.compressor.export.layout import pruned_tensors
from lathe.compressor.export.onnx import export_onnx
from lathe.compressor.export.onnx.blockwise import Blockwise
from lathe.compressor.export.onnx.mixed import Mixed
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.model.families import families
from lathe.compressor.model.names import (
    DOWN_PROJ,
    EMBEDDING,
    LM_HEAD,
    POSITIONS,
    ROUTER,
    SHARE_PROJ,
    in_layer,
    layer_prefix,
)
from lathe.compressor.model.rounded_tensors import Rounded
from lathe.compressor.model.rounding import QuantizedMatrix, quantize_matrix
from lathe.compressor.reconstruction.rounding_pass import RoundingPass
from support.tiny_families import CASES, first_of_each, planned, zeroed
from support.tiny_llama import tokens

TORCH, ONNX, QUANTIZED = 2e-5, 1e-4, 1e-3


def known(exporter: str) -> list[str]:
    """Those of `CASES` that an exporter knows."""
    knows = exporters.get(exporter).knows
    return [case for case, settings in CASES.items() if knows(families.get(settings["model_type"]))]


def load(directory: Path) -> Any:
    register()
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def written(directory: Path, source: Checkpoint, plan: str) -> Any:
    """A subnet's checkpoint, loaded again."""
    export_checkpoint(directory, first_of_each(source, planned(source, plan)))
    return load(directory)


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = model(ids).logits
    return result


def checkpoint_difference(directory: Path, source: Checkpoint, plan: str) -> float:
    """Of a subnet's logits and those of the dense model with zeros for what is left out."""
    ids, reference = tokens(2, 60), zeroed(source, planned(source, plan))
    return float((logits(written(directory, source, plan), ids) - logits(reference, ids)).abs().max())


def onnx_difference(directory: Path, source: Checkpoint, plan: str) -> float:
    """The same for a graph: two prompts of different lengths, then token by token in one batch."""
    export_onnx(directory, first_of_each(source, planned(source, plan)))
    check_inputs(directory / "onnx" / "model.onnx")
    runner = opened(directory / "onnx" / "model.onnx", 2, 64)
    ids, reference = tokens(2, 60).numpy(), zeroed(source, planned(source, plan))
    rows = [[runner.prefill(row, ids[row, :end], "all")] for row, end in enumerate((30, 17))]
    for step in range(30):
        decoded = runner.decode(np.array([ids[0, 30 + step], ids[1, 17 + step]]))
        rows = [[*row, logit[None]] for row, logit in zip(rows, decoded, strict=True)]
    found = [np.concatenate(row) for row in rows]
    expected = logits(reference, torch.from_numpy(ids)).numpy()
    return max(float(np.abs(f - e[: len(f)]).max()) for f, e in zip(found, expected, strict=True))


def opened(graph: Path, rows: int, length: int) -> OnnxRunner:
    """A graph to run. Where it refuses the ONNX Runtime that is installed, the test is skipped."""
    try:
        return OnnxRunner(graph, max_batch=rows, max_length=length, threads=1)
    except UserError as error:
        if "needs ONNX Runtime" in str(error):
            pytest.skip(f"refused: {error}")
        raise


def check_inputs(graph: Path) -> None:
    """No node ends in an input without a name: ONNX Runtime takes that, OpenVINO refuses the model."""
    nodes = onnx.load(graph, load_external_data=False).graph.node
    assert all(node.input[-1] for node in nodes if node.input)


def quantized_difference(directory: Path, source: Checkpoint, plan: str, bits: int) -> float:
    """The difference between an int8 or int4 graph and our model in transformers.

    The graph reads float32; the model has the same quantized matrices.
    """
    job = first_of_each(source, planned(source, plan))
    export_onnx(directory, job, partial(Blockwise, bits=bits, quantize=_in_small_groups))
    whole = {f"{module}.weight" for module in (EMBEDDING, LM_HEAD)}
    return _difference(directory, job, lambda name: 8 if name in whole else bits)


def mixed_difference(directory: Path, source: Checkpoint, plan: Plan) -> float:
    """The same of a graph in which the plan says the bits of every block, and of embedding and head."""
    job = first_of_each(source, plan)
    export_onnx(directory, job, partial(Mixed, plan=plan, quantize=_in_small_groups))

    def bits(name: str) -> int:
        if not name.startswith("model.layers."):
            return plan.head_bits
        return plan[int(name.split(".")[2])].bits("attention" if ".self_attn." in name else "ffn")

    return _difference(directory, job, bits)


def calibrated_difference(directory: Path, source: Checkpoint, plan: str, bits: int) -> float:
    """The same of a graph whose blocks were rounded one after another on text, where they are no experts'."""
    job = first_of_each(source, planned(source, plan))
    rounded = dict(_calibrated(job, bits))
    assert rounded
    job = replace(job, rounded=rounded.get)
    export_onnx(directory, job, partial(Blockwise, bits=bits, quantize=_in_small_groups))
    whole = {f"{module}.weight" for module in (EMBEDDING, LM_HEAD)}
    return _difference(directory, job, lambda name: 8 if name in whole else bits)


def _calibrated(job: Export, bits: int) -> Iterator[tuple[str, torch.Tensor | QuantizedMatrix]]:
    """What the rounding pass makes of a subnet's tensors, by name, on a little random text."""
    layers: list[dict[str, torch.Tensor]] = [{} for _ in job.plan]
    for name, _ in pruned_tensors(job.source.shape, job.plan):
        if name.startswith("model.layers."):
            index, rest = in_layer(name)
            layers[index][rest] = job.stored(name).float()
    model = replace(LayeredModel.open(job.source, ArrayStore()), layers=layers)
    heldout = torch.arange(6) >= 4
    rounding, made = RoundingPass(model, job.plan.in_bits(bits, 8), tokens(6, 40), heldout), list[Rounded]()
    for index in range(len(layers)):
        made.append(rounding.layer(index, made.__getitem__))
        yield from ((layer_prefix(index) + name, value) for name, value in made[index].items())


def _difference(directory: Path, job: Export, bits: Callable[[str], int]) -> float:
    """Of the logits of a graph and of our model with matrices of so many bits, by name."""
    check_inputs(directory / "onnx" / "model.onnx")
    keep_activations(directory / "onnx" / "model.onnx")

    def rounded(name: str) -> torch.Tensor:
        if (given := job.rounded(name)) is not None:
            return given.values if isinstance(given, QuantizedMatrix) else given
        tensor = job.tensor(name)
        kept = (POSITIONS, ROUTER, SHARE_PROJ)
        if tensor.dim() == 1 or any(module in name for module in kept) or not bits(name):
            return tensor
        apart = [tensor]
        if job.source.shape.experts and DOWN_PROJ in name:
            apart = list(tensor.chunk(job.plan[int(name.split(".")[2])].experts, 1))
        return torch.cat([_values(part, bits(name)) for part in apart], 1)

    export_checkpoint(directory / "rounded", Export(job.source, job.plan, rounded))
    ids = tokens(1, 24)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORT_QMOE_CPU_QNBIT_GEMM", "fp32")  # experts, too, read float32
        runner = opened(directory / "onnx" / "model.onnx", 1, 32)
    found = runner.prefill(0, ids[0].numpy(), "all")
    return float(np.abs(found - logits(load(directory / "rounded"), ids)[0].numpy()).max())


def _values(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """What a matrix becomes, rounded by itself."""
    return _in_small_groups(weight, bits, ()).values


def _in_small_groups(weight: torch.Tensor, bits: int, _groups: Sequence[int]) -> QuantizedMatrix:
    """By rows alone: what is rounded together with others is what it is by itself."""
    return quantize_matrix(weight, bits, [32])


def keep_activations(file: Path) -> None:
    """Let products read float32, which the kernels else round to int8."""
    model = onnx.load(file, load_external_data=False)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 0
    onnx.save(model, file)
