"""`lathe serve --engine auto`: whichever engine is fastest on this machine with the files that are there."""

from __future__ import annotations

import importlib.util
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

from lathe.artefact.gguf_suffix import MODEL_FILE, is_gguf
from lathe.artefact.onnx.graph_format import GRAPH
from lathe.serving.backend import SlotEngine
from lathe.serving.launch.engine_times import ANSWER, PROMPT, OpenEngine, Times, times_of
from lathe.serving.launch.registry import engines
from lathe.serving.options import ServeOptions
from lathe.serving.served_gguf import gguf_of, open_served_gguf
from lathe.serving.served_model import ServedModel, open_served_model

PROMPTS: Literal["auto"] = "auto"
"""With the onnx engine, unless another is asked for."""

log = logging.getLogger("lathe.serving")


@engines.register("auto")
def serve_auto(model: Path, options: ServeOptions) -> None:
    """Serves with the engine of `choose_engine`, and says which that is and why.

    Raises:
        UserError: as the engine.
    """
    name, why = choose_engine(model, options)
    log.warning("--engine auto: %s, %s", name, why)
    if name == "onnx" and options.prompts is None and options.device is None:
        options = replace(options, prompts=PROMPTS)
    engines.get(name)(model, options)


def choose_engine(model: Path, options: ServeOptions) -> tuple[str, str]:
    """Returns the name of an engine that can serve a model with these options, and why it is that one.

    Where there are a graph and a GGUF file, both are timed, once per machine: for the metric of the
    artefact's target, else for a whole request. The graph's prompts are read as `--prompts auto` reads them.

    Raises:
        UserError: a model that would have to be timed cannot be served.
    """
    if options.draft or options.engine_args:
        return "vllm", "the only one with what is asked for"
    able = _able(model, options)
    if len(able) == 1:
        return able.pop(), "the only one here with what is asked for"
    graph = open_served_model(model)
    open_served_gguf(model)
    openers = _openers(graph, gguf_of(model), options)
    measured = f"{graph.digest}, prompts {PROMPTS}"
    times, new = times_of(openers, measured, options.threads, time.perf_counter)
    metric = graph.target_metric if graph.target_ms else "e2e"
    return _fastest(times, metric, "measured now" if new else "as measured before")


def _able(model: Path, options: ServeOptions) -> set[str]:
    """Returns the engines whose files, libraries and options are there; onnx, which says what is missing."""
    installed = importlib.util.find_spec("llama_cpp") is not None
    onnx_only = (options.device, options.prefix_cache, options.kv_cache_memory, options.prompts)
    wants_onnx = any(given is not None for given in onnx_only)
    able = set()
    if installed and not wants_onnx and (is_gguf(model) or (model / MODEL_FILE).is_file()):
        able.add("llamacpp")
    if (model / GRAPH).is_file() and not options.flash_attention:
        able.add("onnx")
    return able or {"onnx"}


def _openers(graph: ServedModel, file: Path, options: ServeOptions) -> dict[str, OpenEngine]:
    length = min(graph.context, 2 * PROMPT)

    def onnx() -> SlotEngine:
        from lathe.artefact.onnx.runner import OnnxRunner
        from lathe.serving.launch.prompts import read_prompts

        runner = OnnxRunner(graph.graph, max_batch=1, max_length=length, threads=options.threads)
        read_prompts(runner, graph.graph, graph.digest, replace(options, prompts=PROMPTS))
        return runner

    def llamacpp() -> SlotEngine:
        from lathe.artefact.llamacpp.runner import LlamaCppRunner

        return LlamaCppRunner(file, max_batch=1, max_length=length, threads=options.threads)

    return {"onnx": onnx, "llamacpp": llamacpp}


def _fastest(times: dict[str, Times], metric: str, when: str) -> tuple[str, str]:
    ranked = sorted((seconds.of(metric), name) for name, seconds in times.items())
    work = {
        "tpot": "a token",
        "ttft": f"a prompt of {PROMPT} tokens",
    }.get(metric, f"{PROMPT} tokens of prompt and {ANSWER} of answer")
    shown = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for seconds, name in ranked)
    return ranked[0][1], f"the fastest here for {work} ({shown}; {when})"
