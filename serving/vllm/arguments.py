"""Converts the options of `lathe serve` to vLLM's arguments and environment."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lathe.artefact.errors import UserError
from lathe.artefact.manifest import read_json
from lathe.serving.decoding.generation_defaults import sampling_defaults
from lathe.serving.options import KEEP_ALIVE_S, MAX_BATCH_OF_VLLM, ServeOptions
from lathe.serving.vllm.tool_parser import tool_arguments

MIDDLEWARE = "lathe.serving.vllm.middleware.GatewayMiddleware"
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
BYPASSING_OPTIONS = ["--grpc", "--headless", "--data-parallel-multi-port-external-lb"]
"""Arguments of vLLM that start something other than its HTTP server, which alone has our middleware."""
RUST_FRONTEND = "VLLM_USE_RUST_FRONTEND"
"""Variable that starts an HTTP server without Python, and so without our middleware."""
ENVIRONMENT = {
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE_S),
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # vLLM would keep a core of a CPU for itself
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}


def request_defaults(sampling: Mapping[str, float], template_variables: Mapping[str, Any]) -> list[str]:
    """Returns vLLM's arguments for the fields that requests leave out.

    vLLM does not read generation_config.json itself here: it ignores `do_sample`, and does not check its
    values.

    Args:
        sampling: by the names of generation_config.json; empty: temperature 1, top_p 1, no top_k.
        template_variables: variables of the chat template.
    """
    line = ["--generation-config", "vllm"]
    if sampling:
        line += ["--override-generation-config", json.dumps(dict(sampling))]
    if template_variables:
        line += ["--default-chat-template-kwargs", json.dumps(dict(template_variables))]
    return line


def arguments(model: Path, names: Sequence[str], port: int, options: ServeOptions) -> list[str]:
    """Returns vLLM's command line; what the user gave after `--` comes last and so wins.

    Raises:
        UserError: an argument belongs to `lathe serve`.
    """
    _check(options.engine_args)
    batch = options.max_batch or MAX_BATCH_OF_VLLM
    line = [
        "--model",
        str(model),
        "--served-model-name",
        *names,
        "--host",
        options.host,
        "--port",
        str(port),
        "--middleware",
        MIDDLEWARE,
        "--disable-uvicorn-access-log",
        "--uvicorn-log-level",
        "warning",
        "--max-num-seqs",
        str(batch),
        "--max-num-queued-reqs",
        str(batch + options.max_queue),
    ]
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
    sampling = sampling_defaults(model, options.generation_config)
    line += request_defaults(sampling, options.template_variables)
    return [*line, *tool_arguments(model), *options.engine_args]


def _longest(model: Path) -> int | None:
    """Returns the model's number of positions where vLLM by itself would allow a multiple of it."""
    config = read_json(model / "config.json", optional=True)
    kind = (config.get("rope_parameters") or {}).get("rope_type")
    scaled = kind == "dynamic" or (kind == "linear" and config.get("model_type") == "lathe_gemma")
    return int(config["max_position_embeddings"]) if scaled else None


def environment(threads: int | None, keep_alive: int | None = None) -> dict[str, str]:
    """Returns this process's environment with what vLLM needs, unless the user has set it."""
    found = {**ENVIRONMENT, **os.environ}
    if keep_alive is not None:
        found["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"] = str(keep_alive)
    if threads is not None:
        found["OMP_NUM_THREADS"] = str(threads)
    if "VLLM_PLUGINS" in found:
        found["VLLM_PLUGINS"] += f",{PLUGIN}"
    return found


def check_middleware(args: Namespace, variables: Mapping[str, str]) -> None:
    """Checks that all requests pass through our middleware.

    Args:
        args: the options as vLLM parsed them, those of a `--config` file included.
        variables: the environment.

    Raises:
        UserError: some requests would not.
    """
    given = [option for option in BYPASSING_OPTIONS if getattr(args, _dest(option), None)]
    if variables.get(RUST_FRONTEND, "0") not in ("", "0"):
        given.append(f"${RUST_FRONTEND}")
    if given:
        raise UserError(
            f"{given[0]} would let requests past the API key, the metrics and the drain of `lathe serve`",
            "Use `vllm serve` for it.",
        )
    for option in ("--api-key", "--uds"):
        if getattr(args, _dest(option), None):
            raise UserError(f"{option} is not for vLLM alone", f"Give `lathe serve` {OURS[option]}.")


def _dest(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


def _check(engine_args: Sequence[str]) -> None:
    for argument in engine_args:
        name = argument.partition("=")[0].replace("_", "-")
        if name in OURS:
            raise UserError(
                f"{name} is not for vLLM alone", f"Give `lathe serve` {OURS[name]}, before the --."
            )
