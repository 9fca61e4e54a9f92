"""Chunks in OpenAI's shapes. A whole answer is the fold of the parts that a stream would have sent."""

from __future__ import annotations

import codecs
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from serving.api.schemas import UsageEvents
from serving.api.service import Service
from serving.engines.base import Chunk, GenerationRequest
from serving.sampling import TokenScore
from serving.tokenizer import Tokenizer

Json = dict[str, Any]


class Writer(ABC):
    """Writes the answer to one call, streamed (`opening`, `event`, `closing`) or `whole`."""

    prefix: str
    whole_object: str
    part_object: str

    def __init__(self, service: Service, requests: Sequence[GenerationRequest], usage: UsageEvents) -> None:
        self._tokenizer = service.tokenizer
        self._count = len(requests)
        self._usage_events = usage
        self._prompt_tokens = sum(len(request.prompt) for request in requests if request.choice == 0)
        self._completion_tokens = 0
        self._head = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": service.name,
            "system_fingerprint": f"lathe-{service.artefact.digest}",
        }

    @abstractmethod
    def part(self, chunk: Chunk) -> Json:
        """The choice object of a stream's event."""

    @abstractmethod
    def fold(self, index: int, parts: list[Json]) -> Json:
        """The choice object of a whole answer, from the parts of one choice."""

    def opening(self) -> Iterable[Json]:
        """Events before the first chunk."""
        return ()

    def event(self, chunk: Chunk) -> Json:
        self._completion_tokens += chunk.tokens
        return self._envelope([self.part(chunk)])

    def closing(self) -> Iterable[Json]:
        """Events after the last chunk."""
        if self._usage_events != "none":
            yield self._envelope([]) | {"usage": self._usage()}

    def whole(self, chunks: Sequence[Chunk]) -> Json:
        self._completion_tokens += sum(chunk.tokens for chunk in chunks)
        parts = [self.part(chunk) for chunk in chunks]
        choices = [self.fold(i, [part for part in parts if part["index"] == i]) for i in range(self._count)]
        return self._head | {"object": self.whole_object, "choices": choices, "usage": self._usage()}

    def _envelope(self, choices: list[Json]) -> Json:
        envelope = self._head | {"object": self.part_object, "choices": choices}
        if self._usage_events == "none":
            return envelope
        return envelope | {"usage": self._usage() if self._usage_events == "all" else None}

    def _usage(self) -> Json:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "total_tokens": self._prompt_tokens + self._completion_tokens,
        }


class CompletionWriter(Writer):
    prefix, whole_object, part_object = "cmpl", "text_completion", "text_completion"

    def __init__(
        self,
        service: Service,
        requests: Sequence[GenerationRequest],
        usage: UsageEvents,
        echoes: Sequence[str],
    ) -> None:
        """`echoes`: per choice, the prompt to repeat before the answer, or nothing."""
        super().__init__(service, requests, usage)
        self._echoes = list(echoes)
        self._scored = requests[0].logprobs is not None
        shown = requests[0].show_specials
        self._places = [_Place(service.tokenizer, echo, shown) for echo in echoes]

    def part(self, chunk: Chunk) -> Json:
        echo, self._echoes[chunk.index] = self._echoes[chunk.index], ""
        return {
            "index": chunk.index,
            "text": echo + chunk.text,
            "logprobs": self._logprobs(chunk) if self._scored else None,
            "finish_reason": chunk.finish,
        }

    def fold(self, index: int, parts: list[Json]) -> Json:
        logprobs = [part["logprobs"] for part in parts if part["logprobs"]]
        return {
            "index": index,
            "text": "".join(part["text"] for part in parts),
            "logprobs": {key: [one for p in logprobs for one in p[key]] for key in logprobs[0]}
            if logprobs
            else None,
            "finish_reason": parts[-1]["finish_reason"],
        }

    def _logprobs(self, chunk: Chunk) -> Json:
        scores = chunk.prompt_scores + chunk.scores
        return {
            "tokens": [self._label(score.token) for score in scores],
            "token_logprobs": [score.logprob for score in scores],
            "top_logprobs": [self._top(score) for score in scores],
            "text_offset": [self._places[chunk.index].advance(score.token) for score in scores],
        }

    def _top(self, score: TokenScore) -> Json | None:
        if score.logprob is None:
            return None
        ranked = {self._label(token): logprob for token, logprob in reversed(score.top)}
        return {self._label(score.token): score.logprob} | dict(reversed(ranked.items()))

    def _label(self, token: int) -> str:
        piece = self._tokenizer.label(token)
        try:
            return piece.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


class ChatWriter(Writer):
    prefix, whole_object, part_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, service: Service, requests: Sequence[GenerationRequest], usage: UsageEvents) -> None:
        super().__init__(service, requests, usage)
        self._scored = requests[0].logprobs is not None

    def opening(self) -> Iterable[Json]:
        for index in range(self._count):
            delta = {"role": "assistant", "content": "", "refusal": None}
            yield self._envelope([{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}])

    def part(self, chunk: Chunk) -> Json:
        scored = {"content": [self._scores(score) for score in chunk.scores], "refusal": None}
        return {
            "index": chunk.index,
            "delta": {"content": chunk.text} if chunk.text else {},
            "logprobs": scored if self._scored else None,
            "finish_reason": chunk.finish,
        }

    def fold(self, index: int, parts: list[Json]) -> Json:
        text = "".join(part["delta"].get("content", "") for part in parts)
        scores = [score for part in parts if part["logprobs"] for score in part["logprobs"]["content"]]
        return {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None, "annotations": []},
            "logprobs": {"content": scores, "refusal": None} if self._scored else None,
            "finish_reason": parts[-1]["finish_reason"],
        }

    def _scores(self, score: TokenScore) -> Json:
        top = [self._entry(token, logprob) for token, logprob in score.top]
        return self._entry(score.token, score.logprob) | {"top_logprobs": top}

    def _entry(self, token: int, logprob: float | None) -> Json:
        piece = self._tokenizer.label(token)
        return {"token": piece.decode(errors="replace"), "logprob": logprob, "bytes": list(piece)}


class _Place:
    """Where in a choice's text the next token begins, in characters. echo: the prompt as it was sent, which
    may spell out special tokens, and has no space that sentencepiece puts in front. specials: whether the
    answer has special tokens."""

    def __init__(self, tokenizer: Tokenizer, echo: str = "", specials: bool = False) -> None:
        self._tokenizer, self._echo, self._specials = tokenizer, echo, specials
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at = 0

    def advance(self, token: int) -> int:
        at, piece = self._at, self._tokenizer.piece(token)
        left = self._echo[at:]
        if self._specials and not left:
            piece = self._tokenizer.label(token)
        text = self._utf8.decode(piece)
        if left and not piece:
            named = self._tokenizer.label(token).decode(errors="replace")
            text = named if left.startswith(named) else ""
        elif left and at == 0 and text.startswith(" ") and not left.startswith(" "):
            text = text[1:]
        self._at += len(text)
        return at
