"""The scheduler over an engine in plain numpy whose logits depend on every token of a slot."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from lathe.serving.backend import (
    Dispatch,
    DrainingError,
    GenerationRequest,
    OutputBatch,
    QueueFullError,
    RequestHandle,
    RequestOutput,
    run_callbacks,
)
from lathe.serving.decoding.sampling import SamplingParams
from lathe.serving.scheduler.admission import Admission
from lathe.serving.scheduler.scheduler import Scheduler

V = 64
EOS = 0


class HistoryEngine:
    """Logits are a hash of the slot's whole history: any mix-up of slots changes what follows."""

    vocab_size, max_length, weight_bytes = V, 100, 0
    kv_cache_bytes = kv_bytes_per_token = 0

    def __init__(self, max_batch: int = 3) -> None:
        self.max_batch = max_batch
        self.history: list[list[int]] = [[] for _ in range(max_batch)]
        self.gate = threading.Event()
        self.gate.set()
        self.fail_on: int | None = None
        self.batches: list[int] = []

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(h) for h in self.history])

    def _logits(self, history: list[int]) -> np.ndarray:
        logits = np.random.default_rng(history).normal(size=V).astype(np.float32)
        logits[EOS] = -10
        return logits

    def prefill(self, slot: int, tokens: np.ndarray, logits: str = "last") -> np.ndarray:
        if self.fail_on is not None and self.fail_on in tokens:
            raise RuntimeError("injected")
        rows = []
        for token in tokens:
            self.history[slot].append(int(token))
            rows.append(self._logits(self.history[slot]))
        return np.stack(rows if logits == "all" else rows[-1:])

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        assert self.gate.wait(10)
        if self.fail_on == -1:
            raise RuntimeError("injected")
        self.batches.append(len(tokens))
        for slot, token in enumerate(tokens):
            self.history[slot].append(int(token))
        return np.stack([self._logits(self.history[slot]) for slot in range(len(tokens))])

    def move(self, source: int, target: int) -> None:
        self.history[target], self.history[source] = self.history[source], []

    def reset(self, slot: int) -> None:
        self.history[slot] = []


class Silent:
    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class Reader:
    """Collects the outputs of some sequences."""

    def __init__(self, scheduler: Scheduler, *requests: GenerationRequest) -> None:
        self._outputs: queue.Queue[RequestOutput] = queue.Queue()
        self._count = len(requests)
        self.handle = scheduler.add_requests(requests, self._outputs.put)

    def next(self) -> RequestOutput:
        return self._outputs.get(timeout=10)

    def rest(self) -> list[RequestOutput]:
        outputs: list[RequestOutput] = []
        while sum(output.finished for output in outputs) < self._count:
            outputs.append(self.next())
        return outputs

    def text(self) -> str:
        return "".join(output.text for output in self.rest())


@pytest.fixture
def engine() -> HistoryEngine:
    return HistoryEngine()


@pytest.fixture
def scheduler(engine: HistoryEngine) -> Iterator[Scheduler]:
    scheduler = Scheduler(
        engine,
        lambda t: b"%d " % t,
        eos=[EOS],
        admission=Admission(engine.max_batch + 30),
        observer=Silent(),
        prefill_chunk=4,
    )
    scheduler.warm_up()
    yield scheduler
    engine.gate.set()
    scheduler.close()


def request(*prompt: int, max_tokens: int = 8, **options: Any) -> GenerationRequest:
    options.setdefault("sampling", SamplingParams(seed=sum(prompt)))
    return GenerationRequest(
        np.array(prompt or (1,)), max_tokens=max_tokens, arrived=time.perf_counter(), **options
    )


def until(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_answers_do_not_depend_on_company(scheduler: Scheduler, engine: HistoryEngine):
    jobs = [request(*range(1, 2 + i * 3 % 11), i + 1, max_tokens=1 + i * 7 % 20) for i in range(20)]
    alone = [Reader(scheduler, job).text() for job in jobs]
    engine.batches.clear()
    together = [reader.text() for reader in [Reader(scheduler, job) for job in jobs]]
    assert together == alone
    assert max(engine.batches) == engine.max_batch


def test_a_long_prompt_does_not_stall_the_others(scheduler: Scheduler, engine: HistoryEngine):
    engine.gate.clear()
    Reader(scheduler, request(1, max_tokens=60)).next()
    engine.batches.clear()
    long = Reader(scheduler, request(*[2] * 40, max_tokens=1))
    engine.gate.set()
    long.rest()
    assert len(engine.batches) >= 40 // 4 - 1


def test_limits_stops_and_end_tokens(scheduler: Scheduler):
    assert sum(output.num_tokens for output in Reader(scheduler, request(5, max_tokens=7)).rest()) == 7
    text = Reader(scheduler, request(5, max_tokens=7)).text()
    word = text.split()[2] + " "
    before = text[: text.index(word)]
    stopped = Reader(scheduler, request(5, max_tokens=7, stop=(word,))).rest()
    assert "".join(output.text for output in stopped) == before
    assert stopped[-1].finish_reason == "stop"
    ending = SamplingParams(temperature=0, logit_bias={EOS: 100})
    assert [c.finish_reason for c in Reader(scheduler, request(5, sampling=ending)).rest()] == ["stop"]
    late = Reader(scheduler, request(5, sampling=ending, min_tokens=3)).rest()
    assert sum(output.num_tokens for output in late) == 4
    never = Reader(scheduler, request(5, sampling=ending, ignore_eos=True)).rest()
    assert (sum(output.num_tokens for output in never), never[-1].finish_reason) == (8, "length")


def test_prompt_scores_come_first_and_zero_tokens_are_allowed(scheduler: Scheduler, engine: HistoryEngine):
    prompt = tuple(range(3, 14))
    outputs = Reader(scheduler, request(*prompt, max_tokens=0, logprobs=2, prompt_logprobs=True)).rest()
    scores = outputs[0].prompt_logprobs
    assert [s.token for s in scores] == list(prompt)
    assert scores[0].logprob is None
    for i in range(1, len(prompt)):
        logits = engine._logits(list(prompt[:i]))
        expected = logits[prompt[i]] - np.log(np.exp(logits.astype(float)).sum())
        assert scores[i].logprob == pytest.approx(expected, abs=1e-6)
        assert len(scores[i].top) == 2
    assert (outputs[-1].finish_reason, outputs[-1].num_tokens) == ("length", 0)


def test_cancelling_frees_the_slot_and_hurts_nobody(scheduler: Scheduler, engine: HistoryEngine):
    job = request(9, max_tokens=50)
    alone = Reader(scheduler, job).text()
    engine.gate.clear()
    readers = [Reader(scheduler, request(i, max_tokens=90)) for i in (1, 2)]
    survivor = Reader(scheduler, job)
    waiting = Reader(scheduler, request(3))
    until(lambda: scheduler.num_running == 3 and scheduler.num_waiting == 1)
    for reader in (*readers, waiting):
        reader.handle.cancel()
    assert scheduler.num_waiting == 0
    engine.gate.set()
    assert survivor.text() == alone
    until(lambda: scheduler.num_running == 0)
    assert scheduler.drain(10)


def test_a_cancelled_prompt_is_prefilled_no_further(scheduler: Scheduler, engine: HistoryEngine):
    chunks: list[int] = []
    handles: queue.Queue[RequestHandle] = queue.Queue()
    prefill = engine.prefill

    def cancelling(slot: int, tokens: np.ndarray, logits: str = "last") -> np.ndarray:
        chunks.append(len(tokens))
        handles.get(timeout=10).cancel()
        return prefill(slot, tokens, logits)

    engine.prefill = cancelling  # type: ignore[method-assign]
    outputs: list[RequestOutput] = []
    handles.put(scheduler.add_requests([request(*range(1, 40))], outputs.append))
    assert scheduler.drain(10)
    assert (chunks, outputs, scheduler.num_running) == ([4], [], 0)
    assert engine.history == [[], [], []]


def test_a_call_of_many_does_not_hold_up_those_after_it() -> None:
    scheduler = Scheduler(
        HistoryEngine(1), lambda _: b"x", eos=[], admission=Admission(31), observer=Silent()
    )
    ended: list[str] = []

    def note(name: str) -> Any:
        return lambda output: ended.append(name) if output.finished else None

    scheduler.add_requests([request(i + 1, max_tokens=2) for i in range(8)], note("many"))
    dropped = scheduler.add_requests([request(i + 1, max_tokens=2) for i in range(3)], note("dropped"))
    for name in ("second", "third"):
        scheduler.add_requests([request(1, max_tokens=2)], note(name))
    assert scheduler.num_waiting == 13
    dropped.cancel()
    assert scheduler.num_waiting == 10
    scheduler.warm_up()
    assert scheduler.drain(10)
    scheduler.close()
    assert ended == ["many", "second", "third", *["many"] * 7]


def test_what_a_step_gives_is_handed_over_at_once(scheduler: Scheduler, engine: HistoryEngine) -> None:
    """Each dispatcher gets its own batch, and in order."""
    engine.gate.clear()
    sizes: dict[str, list[int]] = {"one": [], "other": []}
    outputs: queue.Queue[RequestOutput] = queue.Queue()

    def dispatcher(name: str) -> Dispatch:
        def dispatch(batch: OutputBatch) -> None:
            sizes[name].append(len(batch))
            run_callbacks(batch)

        return dispatch

    one = dispatcher("one")
    for prompt in (1, 2, 3):
        scheduler.add_requests([request(prompt, max_tokens=4)], outputs.put, one)
    scheduler.add_requests([request(4, max_tokens=4)], outputs.put, dispatcher("other"))
    engine.gate.set()
    ended = 0
    while ended < 4:
        ended += outputs.get(timeout=10).finished
    assert sum(sizes["one"]) == 12
    assert max(sizes["one"]) == 3
    assert sizes["other"] == [1] * 4


def test_the_queue_is_bounded_and_admits_all_or_none(scheduler: Scheduler, engine: HistoryEngine):
    engine.gate.clear()
    readers = [Reader(scheduler, *[request(i + 1, index=j) for j in range(11)]) for i in range(3)]
    with pytest.raises(QueueFullError):
        scheduler.add_requests([request(1)], lambda _: None)
    engine.gate.set()
    for reader in readers:
        reader.rest()
    with pytest.raises(QueueFullError):
        scheduler.add_requests([request(1)] * 34, lambda _: None)
    assert Reader(scheduler, request(1)).text()


def test_a_finished_request_has_left_before_its_end_is_told():
    scheduler = Scheduler(HistoryEngine(1), lambda _: b"x", eos=[], admission=Admission(1), observer=Silent())
    scheduler.warm_up()
    room: queue.Queue[int] = queue.Queue()

    def on_output(output: RequestOutput) -> None:
        if output.finished:
            scheduler.check_capacity(1)
            room.put(scheduler.num_running)

    scheduler.add_requests([request(1, max_tokens=2)], on_output)
    assert room.get(timeout=10) == 0
    scheduler.close()


def test_one_bad_request_harms_no_other(scheduler: Scheduler, engine: HistoryEngine):
    job = request(9, max_tokens=30)
    alone = Reader(scheduler, job).text()
    engine.gate.clear()
    good = Reader(scheduler, job)
    engine.fail_on = 13
    bad_prompt = Reader(scheduler, request(1, 2, 3, 4, 13))
    bad_sampling = Reader(scheduler, request(4, sampling=SamplingParams(logit_bias={10**6: 1.0})))
    engine.gate.set()
    assert [output.error is None for output in bad_prompt.rest()] == [False]
    assert [output.error is None for output in bad_sampling.rest()] == [False]
    assert good.text() == alone
    assert scheduler.healthy


def test_a_failing_engine_fails_its_requests_and_turns_unhealthy(scheduler: Scheduler, engine: HistoryEngine):
    engine.fail_on = -1
    for _ in range(3):
        assert Reader(scheduler, request(1)).rest()[-1].error
    assert scheduler.num_running == 0
    assert not scheduler.healthy, "every prefill before went well"
    engine.fail_on = 1
    for _ in range(3):
        assert Reader(scheduler, request(1)).rest()[-1].error
    assert not scheduler.healthy
    engine.fail_on = None
    assert Reader(scheduler, request(1)).text()
    assert scheduler.healthy


def test_drain_finishes_what_is_inside_and_refuses_the_rest(scheduler: Scheduler, engine: HistoryEngine):
    engine.gate.clear()
    readers = [Reader(scheduler, request(i + 1)) for i in range(6)]
    assert not scheduler.drain(0.01)
    with pytest.raises(DrainingError):
        scheduler.add_requests([request(1)], lambda _: None)
    engine.gate.set()
    assert scheduler.drain(10)
    assert all(reader.rest()[-1].finish_reason for reader in readers)


def test_closing_tells_everybody(scheduler: Scheduler, engine: HistoryEngine):
    engine.gate.clear()
    readers = [Reader(scheduler, request(i + 1, max_tokens=90)) for i in range(6)]
    closing = threading.Thread(target=scheduler.close)
    closing.start()
    engine.gate.set()
    closing.join(10)
    assert all(reader.rest()[-1].error for reader in readers)
    assert not scheduler.healthy
