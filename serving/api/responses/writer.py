"""Writes a response: the events of its stream, and the document that they add up to."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from lathe.serving.api.answer import Answer, PromptUsage
from lathe.serving.api.logprobs import describe_logprob
from lathe.serving.api.reasoning import AnswerSplitter, Beginning
from lathe.serving.api.responses.body import ResponsesBody
from lathe.serving.api.responses.functions import told_choice, told_tool
from lathe.serving.api.responses.output import FunctionCallItem, Item, MessageItem, ReasoningItem, Status
from lathe.serving.api.service import Service
from lathe.serving.api.tool_calls import Calling
from lathe.serving.backend import GenerationRequest, RequestOutput
from lathe.serving.decoding.sampling import TokenLogprob
from lathe.serving.http.errors import ApiError

Json = dict[str, Any]


class ResponseWriter(Answer):
    """Writes one answer, as a list of items."""

    terminator = b""

    def __init__(
        self,
        service: Service,
        body: ResponsesBody,
        request: GenerationRequest,
        reasoning: Beginning | None,
        calling: Calling | None,
    ) -> None:
        """`reasoning`: how the answer begins to reason; `calling`: how it may call tools."""
        self._tokenizer = service.tokenizer
        self._splitter = AnswerSplitter(reasoning)
        self._calls = calling.deltas() if calling else None
        self._prompt, self._output_tokens = PromptUsage([request]), 0
        self._head = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "model": service.name,
        }
        self._settings = _settings(body, request)
        self._items: list[Item] = []
        self._events_written = 0
        self._final: Json = {}

    def opening(self) -> Iterator[Json]:
        for kind in ("response.created", "response.in_progress"):
            yield self._event(kind, response=self._response("in_progress"))

    def events(self, output: RequestOutput) -> Iterator[Json]:
        self._prompt.read(output)
        self._output_tokens += output.num_tokens
        for part in self._splitter.read(output):
            if part.kind == "reasoning":
                yield from self._think(part.text)
            elif self._calls is None:
                yield from self._say(part.text, part.logprobs)
            else:
                yield from self._act(self._calls.read(part.text, part.logprobs))
        if output.finish_reason is not None:
            cut = output.finish_reason == "length"
            yield from self._act(self._calls.end(cut=cut) if self._calls else ())
            yield from self._finish(cut)

    def whole(self, outputs: Sequence[RequestOutput]) -> Json:
        for output in outputs:
            for _ in self.events(output):
                pass
        return self._final

    def failure(self, error: ApiError) -> Iterable[Json]:
        kind = "server_error" if error.status >= 500 else "invalid_prompt"
        yield self._event("error", code=error.code or kind, message=error.message, param=error.param)
        failed = {"code": kind, "message": error.message}
        yield self._event("response.failed", response=self._response("failed", error=failed))

    def is_delta(self, event: Json) -> bool:
        return str(event["type"]).endswith(".delta")

    def head_of(self, event: Json) -> str:
        return f"event: {event['type']}\n"

    def _think(self, text: str) -> Iterator[Json]:
        item = self._current
        if not isinstance(item, ReasoningItem):
            item = ReasoningItem()
            yield from self._open(item)
        yield self._numbered(item.add(text))

    def _say(self, text: str, logprobs: Sequence[TokenLogprob]) -> Iterator[Json]:
        if not text and not logprobs:
            return
        item = self._current
        if not isinstance(item, MessageItem):
            item = MessageItem()
            yield from self._open(item)
        yield self._numbered(item.say(text, [describe_logprob(self._tokenizer, entry) for entry in logprobs]))

    def _act(self, deltas: Iterable[tuple[Json, Sequence[TokenLogprob]]]) -> Iterator[Json]:
        """Writes text and calls, given as the deltas of a chat; a call's log-probabilities are dropped."""
        for delta, logprobs in deltas:
            calls = delta.get("tool_calls", ())
            for call in calls:
                if "id" in call:
                    yield from self._open(FunctionCallItem(call["id"], call["function"]["name"]))
                item = self._current
                if isinstance(item, FunctionCallItem) and call["function"]["arguments"]:
                    yield self._numbered(item.add(call["function"]["arguments"]))
            if not calls:
                yield from self._say(delta.get("content", ""), logprobs)

    @property
    def _current(self) -> Item | None:
        item = self._items[-1] if self._items else None
        return item if item and item.status == "in_progress" else None

    def _open(self, item: Item) -> Iterator[Json]:
        """Opens an item after the one that is still open, which ends."""
        yield from self._close("completed")
        self._items.append(item)
        added = {"type": "response.output_item.added", "item": item.document()}
        for event in (added, *item.begin()):
            yield self._numbered(event)

    def _close(self, status: Status) -> Iterator[Json]:
        if (item := self._current) is None:
            return
        for event in item.end():
            yield self._numbered(event)
        item.status = status
        yield self._numbered({"type": "response.output_item.done", "item": item.document()})

    def _finish(self, cut: bool) -> Iterator[Json]:
        """Completes the answer; unless it was cut off while reasoning, it has a message, be it empty."""
        if (not cut and not self._answered) or not self._items:
            yield from self._open(MessageItem())
        status: Status = "incomplete" if cut else "completed"
        yield from self._close(status)
        details = {"reason": "max_output_tokens"} if cut else None
        self._final = self._response(status, incomplete_details=details, usage=self._usage())
        yield self._event(f"response.{status}", response=self._final)

    @property
    def _answered(self) -> bool:
        return bool(self._items) and not isinstance(self._items[-1], ReasoningItem)

    def _response(self, status: Status | Literal["failed"], **more: Any) -> Json:
        ended = int(time.time()) if status == "completed" else None
        blank = {"error": None, "incomplete_details": None, "usage": None, "completed_at": ended}
        output = {"status": status, "output": [item.document() for item in self._items]}
        return self._head | self._settings | blank | output | more

    def _usage(self) -> Json:
        return {
            "input_tokens": self._prompt.tokens,
            "input_tokens_details": {"cached_tokens": self._prompt.cached or 0, "cache_write_tokens": 0},
            "output_tokens": self._output_tokens,
            "output_tokens_details": {"reasoning_tokens": self._splitter.reasoning_tokens},
            "total_tokens": self._prompt.tokens + self._output_tokens,
        }

    def _event(self, kind: str, **fields: Any) -> Json:
        self._events_written += 1
        return {"type": kind, "sequence_number": self._events_written - 1} | fields

    def _numbered(self, event: Json) -> Json:
        """Returns an event of the last item with its numbers."""
        return self._event(event["type"]) | event | {"output_index": len(self._items) - 1}


def _settings(body: ResponsesBody, request: GenerationRequest) -> Json:
    """Returns the settings that a response repeats from its request, with the defaults where it had none."""
    text = body.text.format.model_dump(by_alias=True, exclude_none=True)
    return {
        "background": False,
        "conversation": None,
        "frequency_penalty": request.sampling.frequency_penalty,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata,
        "parallel_tool_calls": body.parallel_tool_calls,
        "presence_penalty": request.sampling.presence_penalty,
        "previous_response_id": None,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": body.reasoning.effort, "summary": None},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": False,
        "temperature": request.sampling.temperature,
        "text": {"format": text, "verbosity": "medium"},
        "tool_choice": told_choice(body.tool_choice),
        "tools": [told_tool(tool) for tool in body.tools],
        "top_logprobs": body.top_logprobs,
        "top_p": request.sampling.top_p,
        "truncation": "disabled",
        "user": body.user,
    }
