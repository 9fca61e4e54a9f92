"""Two servers up at a time, under interleaved load: what the second is to the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from lathe.serving.loadtest.compare import compare
from lathe.serving.loadtest.load import Load
from lathe.serving.loadtest.prompts import PromptChoice
from lathe.serving.loadtest.servers import RunningServer, served
from lathe.serving.loadtest.testbed import Setup

SHOWN = ("output_tokens_per_second", "ttft_ms.p50", "itl_ms.p50", "tpot_ms.p50")
SIZES = ("lathe_model_weight_bytes", "lathe_kv_cache_bytes_per_token", "lathe_resident_memory_bytes")
GREEDY: dict[str, Any] = {"max_tokens": 96, "temperature": 0, "ignore_eos": True}
QUESTIONS = ("The boy went to the", "In this paper we", "def main(", "She said that", "The history of the")


class Duel:
    """first, second: directories, with what is added to `lathe serve DIR --engine vllm`."""

    def __init__(self, first: tuple[Path, Sequence[str]], second: tuple[Path, Sequence[str]]) -> None:
        self._places = (first, second)
        self._stack = ExitStack()
        self._servers: list[RunningServer] = []

    def __enter__(self) -> Duel:
        for directory, extra in self._places:
            server = served(directory, extra=["--engine", "vllm", *extra])
            self._servers.append(self._stack.enter_context(server))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def race(self, load: Load, prompt_tokens: int, rounds: int) -> dict[str, Any]:
        """Ratios second / first of paired rounds, and both medians of all rounds."""
        first, second = (server.url for server in self._servers)
        found = compare(second, first, load, rounds=rounds, setup=Setup(PromptChoice(prompt_tokens)))
        both = {"first": found["systems"]["dense"], "second": found["systems"]["subnet"]}
        return {
            "concurrency": load.concurrency,
            "prompt_tokens": prompt_tokens,
            "output_tokens": load.output_tokens,
            "requests": load.requests,
            "rounds": rounds,
            "failed": sum(system["failed"] for system in both.values()),
            "ratios": {name: found["ratios"][name] for name in SHOWN},
            **{name: {label: _pick(system, label) for label in SHOWN} for name, system in both.items()},
        }

    def sizes(self) -> list[dict[str, float]]:
        """Of each server: bytes, and the tokens that its KV cache holds."""
        pages = [_samples(server) for server in self._servers]
        return [{**{name: page[name] for name in SIZES}, "kv_tokens": page["kv_tokens"]} for page in pages]

    def answers(self) -> list[list[str]]:
        """What each server says to the same questions, greedily."""
        return [[_complete(server, question) for question in QUESTIONS] for server in self._servers]

    def counters(self, index: int, prefix: str) -> dict[str, float]:
        return {k: v for k, v in _samples(self._servers[index]).items() if k.startswith(prefix)}


def _pick(system: Mapping[str, Any], label: str) -> float:
    name, _, part = label.partition(".")
    return float(system[name][part] if part else system[name])


def _complete(server: RunningServer, question: str) -> str:
    body = {"model": server.model, "prompt": question, **GREEDY}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=300).raise_for_status()
    return str(answer.json()["choices"][0]["text"])


def _samples(server: RunningServer) -> dict[str, float]:
    text = httpx.get(f"{server.url}/metrics").raise_for_status().text
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            position = "".join(f" {v}" for k, v in sample.labels.items() if k == "position")
            found[sample.name + position] = sample.value
            if sample.name == "vllm:cache_config_info":
                found["kv_tokens"] = float(sample.labels["kv_cache_size_tokens"])
    return found
