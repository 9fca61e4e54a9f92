"""Answers in OpenAI's form. A whole answer is the fold of the parts that a stream would have sent."""

from __future__ import annotations

import codecs
import time
import uuid
from abc import abstractmethod
from collections.abc import Iterable, Sequence

from lathe.serving.api.answer import Answer, Json, PromptUsage
from lathe.serving.api.logprobs import describe_logprob
from lathe.serving.api.reasoning import AnswerSplitter, Beginning, Part
from lathe.serving.api.schemas import UsageEvents
from lathe.serving.api.service import Service
from lathe.serving.api.tool_calls import Calling, calls_of
from lathe.serving.backend import GenerationRequest, RequestOutput
from lathe.serving.decoding.sampling import TokenLogprob
from lathe.serving.decoding.tokenizer import Tokenizer


class ResponseBuilder(Answer):
    """Builds answers with choices, as completions and chats have them."""

    prefix: str
    whole_object: str
    part_object: str

    def __init__(self, service: Service, requests: Sequence[GenerationRequest], usage: UsageEvents) -> None:
        self._tokenizer = service.tokenizer
        self._count = len(requests)
        self._usage_events = usage
        self._prompt = PromptUsage(requests)
        self._completion_tokens = 0
        self._head = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": service.name,
            "system_fingerprint": f"lathe-{service.artefact.digest}",
        }

    @abstractmethod
    def parts(self, output: RequestOutput) -> list[Json]:
        """Returns the choice objects of a stream's events, one per event; a final output has at least one."""

    @abstractmethod
    def fold(self, index: int, parts: list[Json]) -> Json:
        """Returns the choice object of a whole answer, from the parts of one choice."""

    def events(self, output: RequestOutput) -> Iterable[Json]:
        self._count_tokens(output)
        for part in self.parts(output):
            yield self._envelope([part])

    def closing(self) -> Iterable[Json]:
        if self._usage_events != "none":
            yield self._envelope([]) | {"usage": self._usage()}

    def whole(self, outputs: Sequence[RequestOutput]) -> Json:
        for output in outputs:
            self._count_tokens(output)
        parts = [part for output in outputs for part in self.parts(output)]
        choices = [self.fold(i, [part for part in parts if part["index"] == i]) for i in range(self._count)]
        return self._head | {"object": self.whole_object, "choices": choices, "usage": self._usage()}

    def _envelope(self, choices: list[Json]) -> Json:
        envelope = self._head | {"object": self.part_object, "choices": choices}
        if self._usage_events == "none":
            return envelope
        return envelope | {"usage": self._usage() if self._usage_events == "all" else None}

    def _count_tokens(self, output: RequestOutput) -> None:
        self._prompt.read(output)
        self._completion_tokens += output.num_tokens

    def _usage(self) -> Json:
        usage: Json = {
            "prompt_tokens": self._prompt.tokens,
            "completion_tokens": self._completion_tokens,
            "total_tokens": self._prompt.tokens + self._completion_tokens,
        }
        if self._prompt.cached is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": self._prompt.cached}
        return usage


class CompletionWriter(ResponseBuilder):
    """Builds the answers to completions."""

    prefix, whole_object, part_object = "cmpl", "text_completion", "text_completion"

    def __init__(
        self,
        service: Service,
        requests: Sequence[GenerationRequest],
        usage: UsageEvents,
        echoes: Sequence[str],
    ) -> None:
        """Creates the writer; `echoes` has for each choice the prompt to repeat before the answer, or ""."""
        super().__init__(service, requests, usage)
        self._echoes = list(echoes)
        self._with_logprobs = requests[0].logprobs is not None
        shown = requests[0].show_specials
        self._places = [_Place(service.tokenizer, echo, shown) for echo in echoes]

    def parts(self, output: RequestOutput) -> list[Json]:
        echo, self._echoes[output.index] = self._echoes[output.index], ""
        part = {
            "index": output.index,
            "text": echo + output.text,
            "logprobs": self._logprobs(output) if self._with_logprobs else None,
            "finish_reason": output.finish_reason,
        }
        return [part]

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

    def _logprobs(self, output: RequestOutput) -> Json:
        logprobs = output.prompt_logprobs + output.logprobs
        return {
            "tokens": [self._label(entry.token) for entry in logprobs],
            "token_logprobs": [entry.logprob for entry in logprobs],
            "top_logprobs": [self._top(entry) for entry in logprobs],
            "text_offset": [self._places[output.index].advance(entry.token) for entry in logprobs],
        }

    def _top(self, entry: TokenLogprob) -> Json | None:
        if entry.logprob is None:
            return None
        ranked = {self._label(token): logprob for token, logprob in reversed(entry.top)}
        return {self._label(entry.token): entry.logprob} | dict(reversed(ranked.items()))

    def _label(self, token: int) -> str:
        data = self._tokenizer.display_bytes(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


class ChatWriter(ResponseBuilder):
    """Builds the answers to chats."""

    prefix, whole_object, part_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(
        self,
        service: Service,
        requests: Sequence[GenerationRequest],
        usage: UsageEvents,
        reasoning: Beginning | None = None,
        calling: Calling | None = None,
        tier: str | None = None,
    ) -> None:
        """Creates the writer.

        Args:
            service: what the routes work with.
            requests: the sequences.
            usage: which events report the usage.
            reasoning: makes the splitter of reasoning and content, if the model reasons.
            calling: how the answers may call tools.
            tier: the service tier that was asked for; there is only one.
        """
        super().__init__(service, requests, usage)
        self._head |= {"service_tier": "default"} if tier else {}
        self._with_logprobs = requests[0].logprobs is not None
        self._calls = [calling.deltas() if calling else None for _ in requests]
        self._splitters = [AnswerSplitter(reasoning) for _ in requests]

    def opening(self) -> Iterable[Json]:
        for index in range(self._count):
            content = "" if self._calls[index] is None else None
            delta = {"role": "assistant", "content": content, "refusal": None}
            yield self._envelope([{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}])

    def parts(self, output: RequestOutput) -> list[Json]:
        calls, finish = self._calls[output.index], output.finish_reason
        deltas: list[tuple[Json, Sequence[TokenLogprob]]] = []
        for part in self._splitters[output.index].read(output):
            if calls is not None and part.kind == "content":
                deltas += calls.read(part.text, part.logprobs)
            else:
                deltas.append((_delta(part), part.logprobs))
        if output.finished:
            deltas += calls.end(cut=finish == "length") if calls else ()
            deltas = deltas or [({}, ())]
        choices = [self._choice(output.index, delta, logprobs) for delta, logprobs in deltas]
        if output.finished:
            choices[-1]["finish_reason"] = calls.finish(finish) if calls else finish
        return choices

    def _choice(self, index: int, delta: Json, logprobs: Sequence[TokenLogprob]) -> Json:
        entries = {
            "content": [describe_logprob(self._tokenizer, entry) for entry in logprobs],
            "refusal": None,
        }
        return {
            "index": index,
            "delta": delta,
            "logprobs": entries if self._with_logprobs else None,
            "finish_reason": None,
        }

    def fold(self, index: int, parts: list[Json]) -> Json:
        logprobs = [entry for part in parts if part["logprobs"] for entry in part["logprobs"]["content"]]
        return {
            "index": index,
            "message": self._message([part["delta"] for part in parts]),
            "logprobs": {"content": logprobs, "refusal": None} if self._with_logprobs else None,
            "finish_reason": parts[-1]["finish_reason"],
        }

    def _message(self, deltas: Sequence[Json]) -> Json:
        """Returns the message; its content is null where only reasoning or calls came."""
        text = "".join(delta.get("content", "") for delta in deltas)
        thought = "".join(delta.get("reasoning_content", "") for delta in deltas)
        message: Json = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
        if calls := calls_of(deltas):
            message |= {"content": text or None, "tool_calls": calls}
        return message | {"content": text or None} | _reasoning(thought) if thought else message

    def _usage(self) -> Json:
        if not any(turn.splits for turn in self._splitters):
            return super()._usage()
        thought = sum(turn.reasoning_tokens for turn in self._splitters)
        return super()._usage() | {"completion_tokens_details": {"reasoning_tokens": thought}}


def _delta(part: Part) -> Json:
    if not part.text:
        return {}
    return _reasoning(part.text) if part.kind == "reasoning" else {"content": part.text}


def _reasoning(text: str) -> Json:
    """Returns reasoning under the name that most clients read, and under vLLM's newer one."""
    return {"reasoning_content": text, "reasoning": text}


class _Place:
    """Tracks where in a choice's text the next token begins, in characters."""

    def __init__(self, tokenizer: Tokenizer, echo: str = "", special_tokens: bool = False) -> None:
        """Starts at the beginning of the text.

        Args:
            tokenizer: gives the bytes of tokens.
            echo: the prompt as it was sent. It may contain the texts of special tokens, and lacks the space
                that sentencepiece puts in front.
            special_tokens: whether special tokens are part of the answer.
        """
        self._tokenizer, self._echo, self._special_tokens = tokenizer, echo, special_tokens
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at = 0

    def advance(self, token: int) -> int:
        at, data = self._at, self._tokenizer.token_bytes(token)
        left = self._echo[at:]
        if self._special_tokens and not left:
            data = self._tokenizer.display_bytes(token)
        text = self._utf8.decode(data)
        if left and not data:
            named = self._tokenizer.display_bytes(token).decode(errors="replace")
            text = named if left.startswith(named) else ""
        elif left and at == 0 and text.startswith(" ") and not left.startswith(" "):
            text = text[1:]
        self._at += len(text)
        return at
