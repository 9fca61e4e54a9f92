"""One build at work in a process of its own: `python side.py JOB`, with that build on PYTHONPATH.

JOB is JSON: what to serve. Every line `SECONDS` on standard input lets the engine work for so long; the
answer is a line of JSON. What is imported has to be in every build that is compared.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from lathe.artefact.onnx.runner import OnnxRunner
from lathe.serving.backend import GenerationRequest, RequestOutput
from lathe.serving.decoding.sampling import SamplingParams
from lathe.serving.scheduler.prefix_cache import PrefixCache
from lathe.serving.scheduler.scheduler import PREFILL_CHUNK, Scheduler

PAGE = 4096


class Silent:
    """An observer of nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class GatedRunner(OnnxRunner):
    """Computes while its gate is open."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gate = threading.Event()
        self.gate.set()
        self.stopped = threading.Event()

    def _pass(self) -> None:
        if not self.gate.is_set():
            self.stopped.set()
            self.gate.wait()

    def prefill(self, *args: Any, **options: Any) -> np.ndarray:
        self._pass()
        return super().prefill(*args, **options)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        self._pass()
        return super().decode(tokens)

    def resident(self) -> int:
        """The bytes of memory behind the addresses of the caches; a page counts once for each address."""
        pages = 0
        with Path("/proc/self/pagemap").open("rb", buffering=0) as table:
            for cache in self._caches.values():
                first, last = cache.address // PAGE, -(-(cache.address + cache.nbytes) // PAGE)
                table.seek(first * 8)
                found = np.frombuffer(table.read((last - first) * 8), np.uint64)
                pages += int(np.count_nonzero(found >> np.uint64(63)))
        return pages * PAGE


def scheduler_of(runner: OnnxRunner, prefix_tokens: int = 0) -> Scheduler:
    """Returns a started scheduler, with a budget of memory where the build has one."""
    options: dict[str, Any] = {}
    if importlib.util.find_spec("lathe.serving.scheduler.admission"):
        from lathe.serving.scheduler.admission import Admission
        from lathe.serving.scheduler.kv_budget import KVBudget, KVPool

        options["admission"] = Admission(runner.max_batch + 1000)
        options["kv_budget"] = KVBudget(runner, KVPool(runner.kv_cache_bytes))
    else:
        options["max_queue"] = 1000
    if prefix_tokens:
        options["prefix_cache"] = PrefixCache(runner, Silent(), PREFILL_CHUNK, prefix_tokens)
    made = Scheduler(runner, lambda _: b"x", eos=[], observer=Silent(), **options)
    made.warm_up()
    return made


def request(prompt: np.ndarray, tokens: int) -> GenerationRequest:
    """Returns a greedy request for so many tokens."""
    sampling = SamplingParams(temperature=0.0)
    return GenerationRequest(prompt, sampling, tokens, arrived=time.perf_counter(), ignore_eos=True)


class Users:
    """Users who ask one after the other's answer, until all prompts are answered."""

    def __init__(self, scheduler: Scheduler, prompts: list[np.ndarray], users: int, tokens: int) -> None:
        self._scheduler, self._tokens = scheduler, tokens
        self._waiting = prompts[users:][::-1]
        self._left = len(prompts)
        self._lock = threading.Lock()
        self.generated = 0
        self.error: str | None = None
        self.done = threading.Event()
        for prompt in prompts[:users]:
            self._ask(prompt)

    def _ask(self, prompt: np.ndarray) -> None:
        self._scheduler.add_requests([request(prompt, self._tokens)], self._heard)

    def _heard(self, output: RequestOutput) -> None:
        with self._lock:
            self.generated += output.num_tokens
            if not output.finished:
                return
            self._left -= 1
            following = self._waiting.pop() if self._waiting else None
        if output.error is not None:
            self.error = output.error
            self.done.set()
        elif following is not None:
            self._ask(following)
        elif not self._left:
            self.done.set()


def serve_users(job: dict[str, Any]) -> None:
    """Answers the users' requests in slices of time; tells tokens, seconds and memory after each."""
    random = np.random.default_rng(job["seed"])
    runner = GatedRunner(
        Path(job["graph"]), max_batch=job["users"], max_length=job["length"], threads=job["threads"]
    )
    fewest, most = job["prompt_tokens"]
    lengths = random.integers(fewest, most, job["requests"], endpoint=True)
    prompts = [random.integers(0, runner.vocab_size, length) for length in lengths]
    scheduler = scheduler_of(runner)
    runner.gate.clear()
    users = Users(scheduler, prompts, job["users"], job["tokens"])
    runner.stopped.wait()
    say({"full_bytes": runner.kv_cache_bytes, "prompt_tokens": int(lengths.sum())})
    for line in sys.stdin:
        before, start = users.generated, time.perf_counter()
        runner.stopped.clear()
        runner.gate.set()
        if not users.done.wait(float(line)):
            runner.gate.clear()
            while not (runner.stopped.wait(0.001) or users.done.is_set()):
                pass
        seconds = time.perf_counter() - start
        tokens, running = users.generated - before, scheduler.num_running
        said = {"seconds": seconds, "tokens": tokens, "running": running, "resident": runner.resident()}
        in_use = int(runner.lengths.sum()) * runner.kv_bytes_per_token
        say(said | {"in_use": in_use, "done": users.done.is_set(), "error": users.error})
        if users.done.is_set():
            break
    runner.gate.set()
    scheduler.close()


def serve_prefix(job: dict[str, Any]) -> None:
    """Tells the seconds to the first token of prompts that begin alike, with and without reuse, in turns."""
    random = np.random.default_rng(job["seed"])
    options = {"max_batch": 4, "max_length": job["length"], "threads": job["threads"]}
    kept = -(-job["system_tokens"] // PREFILL_CHUNK) * PREFILL_CHUNK
    sides = {
        name: scheduler_of(OnnxRunner(Path(job["graph"]), **options), tokens)
        for name, tokens in (("without", 0), ("with", kept))
    }
    vocabulary = sides["with"].vocab_size
    system = random.integers(0, vocabulary, job["system_tokens"])
    say({"kept_tokens": kept})
    for line in sys.stdin:
        question = random.integers(0, vocabulary, int(line))
        prompt = np.append(system, question)
        say({name: list(first_token(scheduler, prompt)) for name, scheduler in sides.items()})
    for scheduler in sides.values():
        scheduler.close()


def first_token(scheduler: Scheduler, prompt: np.ndarray) -> tuple[float, int]:
    """Returns the seconds, and how many tokens of the prompt were not read again."""
    heard: list[RequestOutput] = []
    done = threading.Event()

    def hear(output: RequestOutput) -> None:
        heard.append(output)
        done.set()

    start = time.perf_counter()
    scheduler.add_requests([request(prompt, 1)], hear)
    done.wait()
    return time.perf_counter() - start, heard[0].num_cached_tokens or 0


def say(document: dict[str, Any]) -> None:
    """Answers with one line."""
    print(json.dumps(document), flush=True)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    {"users": serve_users, "prefix": serve_prefix}[given["job"]](given)
