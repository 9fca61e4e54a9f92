"""The state that every route works with: the backend, the tokenizer, the names, the metrics."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lathe.serving.api.reasoning import ServedReasoning
from lathe.serving.api.tool_calls import ServedTools
from lathe.serving.backend import DrainingError, QueueFullError, ServingBackend
from lathe.serving.decoding.tokenizer import Tokenizer
from lathe.serving.http.errors import ApiError, invalid
from lathe.serving.metrics.registry import Metrics
from lathe.serving.served_model import ServedModel
from lathe.serving.structured_output.grammar import Grammar, GrammarCompiler
from lathe.serving.structured_output.schema_errors import GrammarError
from lathe.serving.switching.chooser import Chooser
from lathe.serving.tools.grammar import ToolCallSpec


@dataclass(slots=True)
class Service:
    """The served model and the checks that requests for it have in common.

    Attributes:
        name: the model's name in answers, metrics and errors.
        backend: generates text.
        tokenizer: the artefact's tokenizer.
        artefact: the description of the model.
        metrics: counts requests.
        request_timeout: seconds that an answer may take; None: no limit.
        aliases: other names that clients may use for the model.
        defaults: values of the fields that requests leave out, where they are not OpenAI's.
        subnets: of a family: the view of each subnet, by the names of the plans, widest first.
        chooser: of a family: chooses the subnet for calls that name none.
        created: the time of the start, in seconds since the epoch.
        ready: true once a token has been generated.
        draining: true once the server is told to stop.
    """

    name: str
    backend: ServingBackend
    tokenizer: Tokenizer
    artefact: ServedModel
    metrics: Metrics
    request_timeout: float | None = None
    aliases: tuple[str, ...] = ()
    defaults: Mapping[str, float] = field(default_factory=dict)
    subnets: Mapping[str, Service] = field(default_factory=dict)
    chooser: Chooser | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    ready: bool = False
    draining: bool = False
    grammars: GrammarCompiler = field(init=False)
    reasoning: ServedReasoning = field(init=False)
    tools: ServedTools = field(init=False)

    def __post_init__(self) -> None:
        self.reasoning = ServedReasoning(self.tokenizer, self.backend.vocab_size, self.backend.eos)
        self.tools = ServedTools(self.tokenizer)
        self.grammars = GrammarCompiler(self.tokenizer, self.backend.vocab_size, self.backend.eos)

    def view(self, name: str, artefact: ServedModel, metrics: Metrics) -> Service:
        """Returns this service as one of its subnets: with a name, description and metrics of its own."""
        served = copy.copy(self)
        served.name, served.artefact, served.metrics = name, artefact, metrics
        return served

    @property
    def names(self) -> tuple[str, ...]:
        """The names that clients may use, the main one first; those of subnets last."""
        return (self.name, *self.aliases, *self._subnet_names)

    def subnet_named(self, model: str) -> str | None:
        """Returns the subnet that a name stands for; None for a name of the whole."""
        return self._subnet_names.get(model)

    @property
    def _subnet_names(self) -> dict[str, str]:
        bases = (self.name, *self.aliases)
        return {f"{base}:{subnet}": subnet for base in bases for subnet in self.subnets}

    def check_model(self, model: str) -> None:
        """Checks that `model` is the one that is served.

        Raises:
            ApiError: 404 when it is not.
        """
        if model not in self.names:
            raise ApiError(
                404,
                f"there is no model {model[:100]!r}; this server has {self._told}",
                param="model",
                code="model_not_found",
            )

    @property
    def _told(self) -> str:
        """The names in words: aliases are for those who know them."""
        return ", ".join(repr(name) for name in (self.name, *(f"{self.name}:{one}" for one in self.subnets)))

    def check_capacity(self, count: int) -> None:
        """Checks that the backend accepts `count` more sequences now.

        Raises:
            ApiError: 400 when it never will, 429 or 503 when it does not now.
        """
        if count > self.backend.capacity:
            raise invalid(
                f"{count} sequences in one request; this server holds {self.backend.capacity}", "prompt"
            )
        if not self.ready or self.draining:
            raise refused(
                DrainingError("the server is starting" if not self.ready else "the server is stopping")
            )
        try:
            self.backend.check_capacity(count)
        except (QueueFullError, DrainingError) as error:
            raise refused(error) from None

    def check_text(self, text: str, param: str) -> None:
        """Checks that a text may fit, before time is spent on tokenizing it.

        Raises:
            ApiError: 400 when it cannot.
        """
        if self.tokenizer.surely_longer_than(text, self.backend.max_length):
            raise self._too_long(f"{param} is far", param)

    def check_tokens(self, tokens: Sequence[int] | np.ndarray, generate: int, param: str) -> None:
        """Checks that a prompt is not empty, is in the vocabulary, and fits together with the answer.

        Raises:
            ApiError: 400 when it is not so.
        """
        if not len(tokens):
            raise invalid(f"{param} has no tokens", param)
        self.check_known(tokens, param)
        if len(tokens) + generate > self.backend.max_length:
            raise self._too_long(f"{len(tokens)} prompt tokens and {generate} to generate are", param)

    def check_known(self, tokens: Collection[int] | np.ndarray, param: str) -> None:
        """Checks that all tokens are in the vocabulary.

        Raises:
            ApiError: 400 when one is not.
        """
        if len(tokens) and max(tokens) >= self.backend.vocab_size:
            raise invalid(
                f"token {max(tokens)} is outside the vocabulary of {self.backend.vocab_size}", param
            )

    def room_after(self, prompt: Sequence[int] | np.ndarray) -> int:
        """Returns how many tokens an answer may have that is given no limit."""
        room = self.backend.max_length - len(prompt)
        return min(room, int(self.defaults.get("max_new_tokens", room)))

    def check_minimum(self, minimum: int, most: int) -> None:
        """Checks that the least number of tokens asked for is not more than the largest.

        Raises:
            ApiError: 400 when it is.
        """
        if minimum > most:
            raise invalid(f"min_tokens is {minimum}, but no more than {most} can come", "min_tokens")

    async def grammar(self, schema: dict[str, Any] | None, param: str = "response_format") -> Grammar | None:
        """Compiles a JSON schema; `param` is the field that it comes from.

        Raises:
            ApiError: 400 when the schema cannot be used.
        """
        if schema is None:
            return None
        try:
            return await asyncio.to_thread(self.grammars.compile, schema)
        except GrammarError as error:
            raise invalid(f"{param}: {error}", param) from None

    async def tool_grammar(self, spec: ToolCallSpec, param: str = "response_format") -> Grammar:
        """Compiles the grammar of answers that may call tools.

        Args:
            spec: the tools, and the schema of other answers.
            param: the field that the schema of other answers comes from.

        Raises:
            ApiError: 400 when a schema cannot be used.
        """
        await self.grammar(spec.answer, param)  # alone, so that it is not blamed on the tools
        try:
            return await asyncio.to_thread(self.grammars.compile_tools, spec)
        except GrammarError as error:
            raise invalid(f"tools: {error}", "tools") from None

    def _too_long(self, what: str, param: str) -> ApiError:
        message = f"{what} more than this server's {self.backend.max_length} tokens"
        return invalid(message, param, "context_length_exceeded")


def refused(error: QueueFullError | DrainingError) -> ApiError:
    """Returns the error for a client that has to retry later, or elsewhere."""
    if isinstance(error, QueueFullError):
        return ApiError(429, str(error), code="queue_full")
    return ApiError(503, str(error), code="unavailable")
