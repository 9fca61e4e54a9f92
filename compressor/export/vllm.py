"""vLLM: the checkpoint, and beside it the model's definition as a plugin that any vLLM can install."""

from __future__ import annotations

from pathlib import Path

import torch

from lathe.artefact.atomic_files import sync_directory, write_bytes
from lathe.artefact.errors import UserError
from lathe.artefact.shipped_files import PLUGIN, PLUGIN_PACKAGE, plugin_files
from lathe.artefact.vllm.limits import check_head_size, check_parallel
from lathe.compressor.export.artefact import is_artefact
from lathe.compressor.export.base import Destination, Export, Exporter, check_known, destinations, exporters
from lathe.compressor.export.checkpoint import export_checkpoint
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.families.refusals import rope_of

ACTIVATIONS = {
    "lathe_llama": "silu",
    "lathe_gemma": "gelu_pytorch_tanh",
    "lathe_gpt_oss": "silu",
    "lathe_moe": "silu",
    "lathe_neox": "gelu",
    "lathe_opt": "relu",
}
"""Of FFNs, by our model types that vLLM can serve."""
GATES = {"swiglu_alpha": 1.702, "swiglu_limit": 7.0}
"""Of experts with bounded gates, as its kernels have them."""
FOUR_BIT_MULTIPLE = 32
"""Of what a projection reads: the columns that share a scale, which lie on one device."""


def export_vllm(directory: Path, job: Export) -> None:
    """Writes `vllm_plugin/`, and the checkpoint where there is none yet.

    vLLM then serves `directory` after `pip install DIRECTORY/vllm_plugin`, without Lathe and without
    `--trust-remote-code`.

    Raises:
        UserError: vLLM cannot serve this plan, or the file system refuses.
    """
    check_served(job.source)
    check_parallel(job.plan, job.tensor_parallel)
    if not (directory / "config.json").exists():
        export_checkpoint(directory, job)
    write_plugin(directory / PLUGIN)


def write_plugin(folder: Path) -> None:
    """Writes the installable definition of our models.

    Raises:
        UserError: the file system refuses.
    """
    package = folder / PLUGIN_PACKAGE
    try:
        package.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {package}: {error.strerror or error}") from None
    for name, content in plugin_files().items():
        write_bytes(folder / name, content)
    sync_directory(package)


def check_served(source: Checkpoint) -> None:
    """Checks from its config that vLLM can serve subnets of a model.

    Head sizes are those of the hardware at hand: vLLM itself may start with another, and fails on the first
    request.

    Raises:
        UserError: it cannot; names what it can.
    """
    check_known(source, "vllm")
    kind = source.family.exported_type
    activation, known = source.config.get("hidden_act", "silu"), ACTIVATIONS[kind]
    if activation != known:
        raise UserError(f"our `{kind}` for vLLM has no activation `{activation}`", f"It has: {known}.")
    for setting, value in GATES.items():
        if source.config.get(setting, value) != value:
            asked = source.config[setting]
            raise UserError(f"vLLM has no experts with a `{setting}` of {asked}", f"It has {value}.")
    rope = rope_of(source.config)
    if rope.get("rope_type", rope.get("type")) == "longrope":
        raise UserError(
            "vLLM takes rotary positions of type `longrope` for one length of contexts, transformers as long "
            "as each is: subnets on vLLM would be another model"
        )
    check_head_size(source.shape.head_dim, torch.cuda.is_available())


def check_quantized_model(source: Checkpoint) -> None:
    """Checks that vLLM can serve quantized subnets of a model.

    Raises:
        UserError: as `check_served`, or the model has experts: our checkpoints hold them side by side.
    """
    check_known(source, "vllm")
    if source.shape.experts:
        raise UserError(
            f"experts of a `{source.family.model_type}` cannot be quantized for vLLM yet",
            "Export it to vllm as it is.",
        )
    check_served(source)


def check_four_bit(source: Checkpoint) -> None:
    """Checks that vLLM can serve subnets of a model with 4-bit weights (W4A16).

    Raises:
        UserError: as `check_quantized_model`, or the hidden size is not one of those that its kernels take.
    """
    check_quantized_model(source)
    if source.shape.hidden_size % FOUR_BIT_MULTIPLE:
        raise UserError(
            f"vLLM has no 4-bit kernels for a hidden size of {source.shape.hidden_size}",
            f"They take multiples of {FOUR_BIT_MULTIPLE}.",
        )


_SERVED_BY = f"pip install {{out}}/{PLUGIN} && vllm serve {{out}}"
exporters.add(
    "vllm",
    Exporter(
        write=export_vllm,
        types=ACTIVATIONS,
        check=check_served,
        served_by=_SERVED_BY,
        shared_by=" --tensor-parallel-size {devices}",
        adds_to=is_artefact,
        add=lambda directory, _source: write_plugin(directory / PLUGIN),
    ),
)
destinations.add("vllm-w4a16", Destination(check_four_bit, FOUR_BIT_MULTIPLE))
destinations.add("vllm-w8a8", Destination(check_quantized_model))
