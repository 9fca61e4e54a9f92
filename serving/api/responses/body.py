"""The body of POST /v1/responses. Unknown fields that could change the answer are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PrivateAttr, StrictStr, model_validator

from lathe.serving.api.extra_fields import NEUTRAL, Metadata
from lathe.serving.api.messages import Message
from lathe.serving.api.response_format import NamedSchema, ResponseFormat
from lathe.serving.api.responses.conversation import conversation
from lathe.serving.api.responses.functions import as_chat_choice, as_chat_tools
from lathe.serving.api.schemas import TalkBody
from lathe.serving.api.strict import Strict
from lathe.serving.api.template_options import Effort, TemplateOptions
from lathe.serving.decoding.chat_template import Scalar
from lathe.serving.http.limits import FieldError

MAX_ITEMS = 10_000
STATELESS = "this server stores no responses; send the whole conversation as input"
REFUSED = {
    "previous_response_id": STATELESS,
    "conversation": STATELESS,
    "prompt": "this server stores no prompts; send it as instructions and input",
    "response_format": "here it is text.format",
    "max_tokens": "here it is max_output_tokens",
    "max_completion_tokens": "here it is max_output_tokens",
    "messages": "here they are input",
    "reasoning_effort": "here it is reasoning.effort",
    "n": "a response is one answer",
}
"""Fields that are always refused, and what to do instead."""
LOGPROBS = "message.output_text.logprobs"


def _text_or_items(given: Any) -> Any:
    if not isinstance(given, str | list):
        raise FieldError("input", "input is text, or a list of items")
    if isinstance(given, list) and not 0 < len(given) <= MAX_ITEMS:
        raise FieldError("input", f"input has at least 1 item and at most {MAX_ITEMS}")
    return given


class TextFormat(Strict):
    """`text.format`: as `response_format` of a chat, with the schema's parts one level higher."""

    model_config = ConfigDict(protected_namespaces=())

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    definition: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None

    def as_response_format(self) -> ResponseFormat:
        if self.type != "json_schema":
            return ResponseFormat(type=self.type)
        given = self.model_dump(by_alias=True, exclude={"type"}, exclude_none=True)
        return ResponseFormat(type="json_schema", json_schema=NamedSchema.model_validate(given))

    @model_validator(mode="after")
    def _schema_where_it_belongs(self) -> TextFormat:
        if self.type != "json_schema" and self.model_fields_set - {"type"}:
            raise FieldError("text", "text.format: a name and a schema belong to the type json_schema")
        if self.type == "json_schema" and (self.name is None or self.definition is None):
            raise FieldError("text", "text.format: the type json_schema needs a name and a schema")
        self.as_response_format()
        return self


class TextConfig(Strict):
    """`text`."""

    format: TextFormat = Field(default_factory=lambda: TextFormat.model_validate({}))
    verbosity: Literal["medium"] | None = None


class Reasoning(Strict):
    """`reasoning`: the model's reasoning is given as it is; no summary is made of it."""

    effort: Effort | None = None
    summary: Any = None
    generate_summary: Any = None
    context: Literal["auto"] | None = None
    mode: Literal["standard"] | None = None

    @model_validator(mode="after")
    def _as_the_model_thinks(self) -> Reasoning:
        if self.summary is not None or self.generate_summary is not None:
            raise FieldError("reasoning", "reasoning.summary is not supported: thinking is given as it is")
        return self


class ResponsesBody(TalkBody):
    """The body of POST /v1/responses."""

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = NEUTRAL | {
        "background": (False,),
        "truncation": ("disabled",),
        "context_management": ([],),
    }

    input: Annotated[str | list[Any], BeforeValidator(_text_or_items)]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    chat_template_kwargs: dict[str, Scalar] = Field(default_factory=dict, max_length=100)
    max_tool_calls: int | None = Field(None, ge=1)
    text: TextConfig = Field(default_factory=TextConfig)
    reasoning: Reasoning = Field(default_factory=Reasoning)
    metadata: Metadata = Field(default_factory=dict)
    service_tier: Literal["auto", "default"] | None = None
    user: StrictStr | None = None
    safety_identifier: StrictStr | None = None
    prompt_cache_key: StrictStr | None = None
    _messages: list[Message] = PrivateAttr(default_factory=list)

    include: list[Literal["message.output_text.logprobs"]] = Field([])
    top_logprobs: int = Field(0, ge=0, le=20)

    @model_validator(mode="before")
    @classmethod
    def _in_the_form_of_chats(cls, document: Any) -> Any:
        for name, reason in REFUSED.items():
            if isinstance(document, dict) and document.get(name) is not None:
                raise FieldError(name, f"{name} is not supported: {reason}")
        if not isinstance(document, dict):
            return document
        changed = {"tools": as_chat_tools, "tool_choice": as_chat_choice}
        return document | {name: form(document[name]) for name, form in changed.items() if name in document}

    @property
    def schema_demanded(self) -> dict[str, Any] | None:
        return self.text.format.as_response_format().demanded

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens to report with every token; None: no log-probabilities."""
        return self.top_logprobs if LOGPROBS in self.include or self.top_logprobs else None

    @property
    def template_options(self) -> TemplateOptions:
        """How the conversation becomes a prompt."""
        return TemplateOptions(
            reasoning_effort=self.reasoning.effort, chat_template_kwargs=self.chat_template_kwargs
        )

    @property
    def messages(self) -> list[Message]:
        """The conversation as the messages of a chat."""
        return self._messages

    @model_validator(mode="after")
    def _usage_at_the_end(self) -> ResponsesBody:
        if self.stream_options is not None and self.stream_options.continuous_usage_stats:
            raise FieldError("stream_options", "stream_options: the usage of a response comes at its end")
        return self

    @model_validator(mode="after")
    def _read_input(self) -> ResponsesBody:
        self._messages = conversation(self.input, self.instructions)
        return self
