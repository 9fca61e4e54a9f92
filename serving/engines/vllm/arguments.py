"""From the options of `lathe serve` to vLLM's arguments and environment."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from compressor.errors import UserError
from serving.engines.registry import ServeOptions
from serving.manifest import read_json
from serving.protocol import KEEP_ALIVE_S

GATE = "serving.engines.vllm.gate.Gate"
MAX_BATCH = 256
PLUGIN = "lathe"
OURS = {
    "--model": "the first argument",
    "--host": "--host",
    "--port": "--port",
    "--uds": "--host and --port",
    "--api-key": "--api-key",
    "--allowed-origins": "--allowed-origins",
    "--served-model-name": "--served-model-name",
    "--shutdown-timeout": "--drain-timeout",
}
"""Arguments of vLLM that `lathe serve` has to know of, and what to give it instead, before the `--`."""
ENVIRONMENT = {
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE_S),
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # vLLM would keep a core of a CPU for itself
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}


def arguments(model: Path, names: Sequence[str], port: int, options: ServeOptions) -> list[str]:
    """vLLM's command line; what the user gave after `--` comes last and so wins.

    Raises:
        UserError: an argument belongs to `lathe serve`.
    """
    _check(options.engine_args)
    batch = options.max_batch or MAX_BATCH
    line = [
        "--model", str(model), "--served-model-name", *names, "--host", options.host, "--port", str(port),
        "--middleware", GATE, "--disable-uvicorn-access-log", "--uvicorn-log-level", "warning",
        "--max-num-seqs", str(batch), "--max-num-queued-reqs", str(batch + options.max_queue),
    ]  # fmt: skip
    longest = options.max_length or _longest(model)
    if longest is not None:
        line += ["--max-model-len", str(longest)]
    if options.draft is not None:
        speculation = {
            "method": "draft_model",
            "model": str(options.draft),
            "num_speculative_tokens": options.draft_tokens,
        }
        line += ["--speculative-config", json.dumps(speculation)]
    return [*line, *options.engine_args]


def _longest(model: Path) -> int | None:
    """The model's positions, where vLLM by itself would allow a multiple of them."""
    config = read_json(model / "config.json", optional=True)
    kind = (config.get("rope_parameters") or {}).get("rope_type")
    scaled = kind == "dynamic" or (kind == "linear" and config.get("model_type") == "lathe_gemma")
    return int(config["max_position_embeddings"]) if scaled else None


def environment(threads: int | None, keep_alive: int | None = None) -> dict[str, str]:
    """This process's own, and what vLLM needs, unless the user has set it."""
    found = {**ENVIRONMENT, **os.environ}
    if keep_alive is not None:
        found["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"] = str(keep_alive)
    if threads is not None:
        found["OMP_NUM_THREADS"] = str(threads)
    if "VLLM_PLUGINS" in found:
        found["VLLM_PLUGINS"] += f",{PLUGIN}"
    return found


def _check(engine_args: Sequence[str]) -> None:
    for argument in engine_args:
        name = argument.partition("=")[0].replace("_", "-")
        if name in OURS:
            raise UserError(
                f"{name} is not for vLLM alone", f"Give `lathe serve` {OURS[name]}, before the --."
            )
