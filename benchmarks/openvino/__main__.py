"""Which of Lathe's graphs does OpenVINO read, and does it compute them right?

    make check-openvino

Writes a tiny random subnet of every family in every format, with uneven layers and one without attention, and
runs a prompt and one more token in OpenVINO and in ONNX Runtime, both in float32: `INFERENCE_PRECISION_HINT`
f32 and `DYNAMIC_QUANTIZATION_GROUP_SIZE` 0 there, accuracy level 0 here. Prints a table: the largest
difference of logits over their standard deviation, or why OpenVINO does not run the graph. Exit status 1
where it runs one and differs by more than 1e-4, or 1e-2 with an int8 cache, where a value between two codes
may become either.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch

from lathe.artefact.onnx.graph_format import GRAPH
from lathe.artefact.onnx.runner import OnnxRunner
from lathe.compressor.export import Export
from lathe.compressor.export.genai import add_genai
from lathe.compressor.export.genai.config import GENAI_GRAPH
from lathe.compressor.export.onnx import export_onnx
from lathe.compressor.export.onnx.blockwise import Blockwise
from lathe.compressor.export.onnx.mixed import Mixed
from lathe.compressor.model.cache_rounding import CacheScales
from support.family_checks import keep_activations
from support.tiny_families import CASES, family_checkpoint, first_of_each, planned, rounded_blocks
from support.tiny_llama import tokens

SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
TYPES = {"f32": np.float32, "i8": np.int8}
LENGTH = 20
CACHE = "int8 cache"
MOST = {CACHE: 1e-2}
USUAL = 1e-4
"""The most that other formats may differ by."""
REASONS = ("No conversion rule found", "is not supported", "conflicts")


@dataclass(frozen=True)
class Format:
    """A format of graphs.

    Attributes:
        matrices: what it makes of matrices; None: nothing.
        int8_cache: whether its KV cache is int8.
        masked: whether it is the graph for onnxruntime-genai.
    """

    matrices: Callable[..., Any] | None = None
    int8_cache: bool = False
    masked: bool = False


def formats(job: Export) -> dict[str, Format]:
    """The formats of a model's graph, by name."""
    made = {
        "float32": Format(),
        "int8": Format(partial(Blockwise, bits=8)),
        "int4": Format(partial(Blockwise, bits=4)),
        "genai": Format(masked=True),
        CACHE: Format(int8_cache=True),
    }
    if not job.source.shape.experts:
        made["mixed"] = Format(partial(Mixed, plan=rounded_blocks(job.plan)))
    return made


def write(directory: Path, job: Export, form: Format) -> Path:
    """Writes a graph, whose products read float32; returns its file."""
    if form.int8_cache:
        job = replace(job, cache_scales=partial(_scales, job))
    export_onnx(directory, job, *([form.matrices] if form.matrices else []))
    keep_activations(directory / GRAPH)
    if not form.masked:
        return directory / GRAPH
    add_genai(directory, job.source)
    return directory / GENAI_GRAPH


def _scales(job: Export, index: int) -> CacheScales:
    heads, size = job.plan[index].kv_heads, job.source.shape.head_dim
    return CacheScales(torch.full((heads, size), 0.05), torch.full((heads, size), 0.05))


def expected(graph: Path, ids: np.ndarray) -> np.ndarray:
    """The logits after a prompt and after one more token, by ONNX Runtime."""
    runner = OnnxRunner(graph, max_batch=1, max_length=LENGTH, threads=1)
    return np.concatenate([runner.prefill(0, ids[:-1]), runner.decode(ids[-1:])])


def found(graph: Path, ids: np.ndarray) -> np.ndarray:
    """The same by OpenVINO."""
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(graph), "CPU", SETTINGS)
    names = [port.get_any_name() for port in compiled.inputs]
    caches = {
        port.get_any_name(): np.zeros(
            (1, port.partial_shape[1].get_length(), LENGTH, port.partial_shape[3].get_length()),
            TYPES[port.element_type.get_type_name()],
        )
        for port in compiled.inputs
        if port.get_any_name().startswith("past_key_values.")
    }
    logits, length = [], 0
    for piece in (ids[:-1], ids[-1:]):
        length += len(piece)
        feeds = {
            "input_ids": piece[None],
            "attention_mask": np.ones((1, length), np.int64),
            "seqlens_k": np.array([length - 1], np.int32),
            "total_sequence_length": np.array(length, np.int32),
            "logits_at": np.array([[0, len(piece) - 1]]),
            **caches,
        }
        result = compiled({name: value for name, value in feeds.items() if name in names})
        by_name = {port.get_any_name(): value for port, value in result.items()}
        logits.append(by_name["logits"].reshape(1, -1).copy())
        for name, cache in caches.items():
            present = by_name[name.replace("past_key_values", "present")]
            cache[:, :, : present.shape[2]] = present
    return np.concatenate(logits)


def outcome(directory: Path, job: Export, form: Format) -> float | str:
    """The difference, or why there is none."""
    graph, ids = write(directory, job, form), tokens(LENGTH).numpy()
    wanted = expected(directory / GRAPH, ids)
    try:
        difference = np.abs(found(graph, ids) - wanted).max() / wanted.std()
    except RuntimeError as error:
        lines = [line.strip("- ") for line in str(error).splitlines() if line.strip()]
        return next((line for reason in REASONS for line in lines if reason in line), lines[-1])
    return float(difference)


def main() -> int:
    os.environ["ORT_QMOE_CPU_QNBIT_GEMM"] = "fp32"
    rows: dict[str, dict[str, float | str]] = {}
    for case in sys.argv[1:] or CASES:
        with tempfile.TemporaryDirectory() as scratch:
            source = family_checkpoint(Path(scratch) / "dense", case, eos_token_id=1)
            job = first_of_each(source, planned(source, "no attention middle"))
            rows[case] = {
                name: outcome(Path(scratch) / name, job, form) for name, form in formats(job).items()
            }
        print(case, rows[case], file=sys.stderr, flush=True)
    show(rows)
    return int(
        any(
            isinstance(cell, float) and not cell <= MOST.get(name, USUAL)
            for row in rows.values()
            for name, cell in row.items()
        )
    )


def show(rows: dict[str, dict[str, float | str]]) -> None:
    """Prints the table, and behind it the reasons, by number."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    notes = list(
        dict.fromkeys(cell for row in rows.values() for cell in row.values() if isinstance(cell, str))
    )

    def shown(cell: float | str | None) -> str:
        if cell is None:
            return ""
        return f"no ({notes.index(cell) + 1})" if isinstance(cell, str) else f"{cell:.0e}"

    print(f"| OpenVINO {openvino.__version__} | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for case, row in rows.items():
        print(f"| {case} | {' | '.join(shown(row.get(name)) for name in columns)} |")
    for number, note in enumerate(notes, 1):
        print(f"{number}. {note}")


if __name__ == "__main__":
    sys.exit(main())
