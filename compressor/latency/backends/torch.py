"""Plain PyTorch through transformers: for machines that serve with it, and as a yardstick."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lathe.artefact.atomic_files import write_json
from lathe.artefact.plan import Plan
from lathe.compressor.export.checkpoint import uneven_config
from lathe.compressor.latency.backend import backends
from lathe.compressor.latency.workload import Workload
from lathe.compressor.model.checkpoint import Checkpoint


class TorchBackend:
    """The checkpoint's model with a dynamic KV cache: float32 on a CPU, the checkpoint's dtype on a GPU.

    Models that were built have a config only; their weights are made up when they are loaded. Every decode
    step takes the cache back to the workload's context.
    """

    name = "torch"
    export = "checkpoint"

    def build(self, directory: Path, source: Checkpoint, plan: Plan, layers: int) -> None:
        config = {**source.config, "num_hidden_layers": layers}
        shape = source.family.shape(config)
        write_json(
            directory / "config.json", uneven_config(replace(source, config=config, shape=shape), plan)
        )

    def prepare(self, directory: Path, workload: Workload, threads: int | None) -> Callable[[], None]:
        if threads:
            torch.set_num_threads(threads)
        model, vocabulary = _load(directory)
        device = next(model.parameters()).device
        prompt = (torch.arange(workload.context, device=device) % vocabulary)[None]
        if workload.metric == "ttft":
            return _synchronized(device, lambda: model(input_ids=prompt, use_cache=True, logits_to_keep=1))
        from lathe.artefact.modeling.cache import new_cache

        past, token = new_cache(), prompt[:, :1].expand(workload.batch_size, 1)
        (cache,) = past.values()
        with torch.inference_mode():
            model(input_ids=prompt.expand(workload.batch_size, -1), logits_to_keep=1, **past)

        def step() -> None:
            model(input_ids=token, logits_to_keep=1, **past)
            cache.crop(-1)

        return _synchronized(device, step)

    def versions(self) -> dict[str, str]:
        import transformers

        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        return {"torch": torch.__version__, "transformers": transformers.__version__, "device": device}


def _load(directory: Path) -> tuple[Any, int]:
    """A checkpoint with its weights, or with random ones where it has a config only; and its vocabulary."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from lathe.artefact.modeling import register
    from lathe.artefact.modeling.load import load_model

    register()
    config = AutoConfig.from_pretrained(directory)
    if any(directory.glob("*.safetensors")):
        model = load_model(directory)
    else:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    if torch.cuda.is_available():
        model = model.to("cuda", config.dtype)
    return model, int(config.vocab_size)


def _synchronized(device: torch.device, run: Callable[[], Any]) -> Callable[[], None]:
    """A call that returns when the device is done."""

    @torch.inference_mode()
    def step() -> None:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return step


backends.add(TorchBackend.name, TorchBackend())
