"""A tiny random chat model as an artefact, and real servers for it on free ports."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lathe.artefact.onnx.runner import OnnxRunner
from lathe.compressor.export.dense import dense_artefact
from lathe.serving.api.service import Service
from lathe.serving.decoding.tokenizer import Tokenizer as ServedTokenizer
from lathe.serving.http.socket import listen, url_of
from lathe.serving.launch.server import Server
from lathe.serving.metrics.exposition import Exposition
from lathe.serving.metrics.registry import Metrics
from lathe.serving.scheduler.admission import Admission
from lathe.serving.scheduler.kv_budget import KVBudget, KVPool
from lathe.serving.scheduler.prefix_cache import PrefixCache
from lathe.serving.scheduler.scheduler import PREFILL_CHUNK, Scheduler
from lathe.serving.served_model import open_served_model

NAME = "tiny"
CONTEXT = 512
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' and not loop.first %}"
    "{{ raise_exception('the system message must come first') }}{% endif %}"
    "<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}<|assistant|>"
)
TEXT = [
    "The quick brown fox jumps over the lazy dog, and then the dog jumps over the quick brown fox.",
    "Ein Bär läuft über die Straße; naïve café über 東京 и Москва, emoji 😀 too.",
]


def save_tokenizer(directory: Path, *, chat: bool = True, template: str = CHAT_TEMPLATE) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=special[2:],
        chat_template=template if chat else None,
    ).save_pretrained(directory)


def save_checkpoint(
    directory: Path, *, chat: bool = True, template: str = CHAT_TEMPLATE, **changes: Any
) -> Path:
    """A dense checkpoint of a random Llama with a byte-level tokenizer; `changes` are of its config."""
    torch.manual_seed(0)
    config: dict[str, Any] = {
        "vocab_size": 320,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    model = LlamaForCausalLM(LlamaConfig(**config | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    model.save_pretrained(directory)
    save_tokenizer(directory, chat=chat, template=template)
    return directory


def save_artefact(directory: Path, **options: Any) -> Path:
    """Of the checkpoint that `save_checkpoint` makes with these options."""
    return dense_artefact(str(save_checkpoint(directory / NAME, **options)), directory / "cache")


class GatedRunner(OnnxRunner):
    """The real runner, whose decoding can be held up for as long as a test needs.

    With a `script`, token i of every answer is the i-th of it, whatever the model thinks.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gate = threading.Event()
        self.gate.set()
        self.fail_next = False
        self.script: Sequence[int] = ()
        self._begun: dict[int, int] = {}

    def prefill(self, slot: int, tokens: Any, logits: Any = "last") -> Any:
        rows = super().prefill(slot, tokens, logits)
        self._begun[slot] = int(self.lengths[slot])
        return self._led(rows, -1, slot)

    def decode(self, tokens: Any) -> Any:
        self.gate.wait(30)
        if self.fail_next:
            self.fail_next = False
            raise RuntimeError("injected")
        rows = super().decode(tokens)
        for slot in range(len(rows)):
            rows = self._led(rows, slot, slot)
        return rows

    def move(self, source: int, target: int) -> None:
        super().move(source, target)
        self._begun[target] = self._begun.get(source, 0)

    def _led(self, rows: Any, row: int, slot: int) -> Any:
        at = int(self.lengths[slot]) - self._begun.get(slot, 0)
        if at < len(self.script):
            rows = rows.copy()
            rows[row, self.script[at]] = rows[row].max() + 100
        return rows


class Served:
    """A service at work in a thread of this process."""

    def __init__(self, service: Service, runners: Sequence[GatedRunner], **options: Any) -> None:
        self.service = service
        self.runners = runners
        self.server = Server(service, **options)
        self._listener = listen("127.0.0.1", 0)
        self.url = url_of(self._listener)
        self.ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self.server.run_on(self._listener, self.ready.set))
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self.server.stop)

    def counter(self, name: str, **labels: str) -> float:
        registry = self.service.metrics.exposition.registry
        return registry.get_sample_value(name, {"model": self.service.name} | labels) or 0.0

    def post(self, path: str, **body: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/{path}", json={"model": self.service.name} | body, timeout=30)

    def complete(self, prompt: Any = "The quick", **body: Any) -> dict[str, Any]:
        response = self.post("completions", prompt=prompt, **body)
        response.raise_for_status()
        document: dict[str, Any] = response.json()
        return document


class Running(Served):
    """A server of one artefact."""

    def __init__(
        self,
        artefact_dir: Path,
        *,
        max_batch: int,
        max_queue: int,
        max_length: int = CONTEXT,
        alias: str | None = None,
        request_timeout: float | None = None,
        defaults: dict[str, float] | None = None,
        variables: dict[str, Any] | None = None,
        prefix_cache: int = 0,
        kv_memory: int | None = None,
        **options: Any,
    ) -> None:
        artefact = open_served_model(artefact_dir)
        tokenizer = ServedTokenizer(artefact.path, variables)
        self.metrics = Metrics(NAME, target_ms=17.0, exposition=Exposition([("tpot", 17.0)], alias))
        self.runner = GatedRunner(artefact.graph, max_batch=max_batch, max_length=max_length, threads=1)
        kept = PrefixCache(self.runner, self.metrics, PREFILL_CHUNK, prefix_cache) if prefix_cache else None
        self.backend = Scheduler(
            self.runner,
            tokenizer.token_bytes,
            eos=artefact.eos,
            admission=Admission(max_batch + max_queue),
            observer=self.metrics,
            prefix_cache=kept,
            kv_budget=KVBudget(self.runner, KVPool(kv_memory or self.runner.kv_cache_bytes)),
        )
        self.metrics.watch(self.backend, artefact, "onnx")
        self.metrics.watch_process(self.backend)
        service = Service(
            NAME, self.backend, tokenizer, artefact, self.metrics, request_timeout, defaults=defaults or {}
        )
        super().__init__(service, [self.runner], **options)


S = TypeVar("S", bound=Served)


@contextmanager
def started(server: S) -> Iterator[S]:
    """Starts a server, and stops it in the end."""
    server.thread.start()
    try:
        if not server.ready.wait(30):
            raise TimeoutError("the server did not become ready")
        yield server
    finally:
        for runner in server.runners:
            runner.gate.set()
        if server.thread.is_alive():
            server.stop()
            server.thread.join(30)


@contextmanager
def running(
    artefact_dir: Path, *, max_batch: int = 4, max_queue: int = 16, **options: Any
) -> Iterator[Running]:
    """A server of one artefact at work."""
    with started(Running(artefact_dir, max_batch=max_batch, max_queue=max_queue, **options)) as server:
        yield server
