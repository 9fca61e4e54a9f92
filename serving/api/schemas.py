"""The bodies of generation requests. Unknown fields that could change the answer are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator

from lathe.serving.api.extra_fields import NEUTRAL, check_field
from lathe.serving.api.messages import Message
from lathe.serving.api.response_format import ResponseFormat
from lathe.serving.api.strict import Strict
from lathe.serving.api.template_options import TemplateOptions
from lathe.serving.api.tool_fields import ToolFields
from lathe.serving.decoding.sampling import SamplingParams
from lathe.serving.http.limits import FieldError, Limits

MAX_CHOICES = 8
MAX_STOPS = 4
MAX_STOP_TOKENS = 256
MAX_BIASES = 1024
MAX_SALT = 256


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Token = Annotated[int, Field(ge=0, le=2**31 - 1, strict=True)]
UsageEvents = Literal["none", "last", "all"]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]


class StreamOptions(Strict):
    """`stream_options`: what a stream's events report."""

    include_usage: bool = False
    include_obfuscation: bool = False
    continuous_usage_stats: bool = False


class GenerationBody(BaseModel):
    """The fields that completions and chats have in common. Null stands for the default everywhere."""

    model_config = ConfigDict(allow_inf_nan=False, extra="ignore", protected_namespaces=())

    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = NEUTRAL
    """Fields beside these, and their values that change nothing."""

    model: str = Field(min_length=1)
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1, le=2**31 - 1)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: dict[Token, Annotated[float, Field(ge=-100, le=100)]] = Field({}, max_length=MAX_BIASES)
    min_p: float = Field(0.0, ge=0, le=1, strict=True)
    repetition_penalty: float = Field(1.0, ge=0.01, le=100, strict=True)
    stop: Annotated[list[Stop], BeforeValidator(_as_list)] = Field([], max_length=MAX_STOPS)
    stop_token_ids: list[Token] = Field([], max_length=MAX_STOP_TOKENS)
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    min_tokens: int = Field(0, ge=0)
    ignore_eos: bool = False
    response_format: ResponseFormat | None = None
    cache_salt: str = Field("", max_length=MAX_SALT)

    @model_validator(mode="before")
    @classmethod
    def _known_fields_only(cls, document: Any) -> Any:
        if not isinstance(document, dict):
            return document
        given = {name: value for name, value in document.items() if value is not None}
        for name, value in given.items():
            if name not in cls.model_fields:
                check_field(name, value, list(cls.model_fields), cls.neutral)
        biases = given.get("logit_bias")
        if isinstance(biases, dict) and len(biases) <= MAX_BIASES:
            given["logit_bias"] = {_token(key): bias for key, bias in biases.items()}
        return given

    @model_validator(mode="after")
    def _consistent(self) -> GenerationBody:
        if self.stream_options is not None and not self.stream:
            raise FieldError("stream_options", "stream_options needs stream to be true")
        if self.schema_demanded is not None and (self.ignore_eos or self.min_tokens):
            name = "ignore_eos" if self.ignore_eos else "min_tokens"
            raise FieldError(
                "response_format", f"response_format decides where the answer ends: leave out {name}"
            )
        return self

    @property
    def schema_demanded(self) -> dict[str, Any] | None:
        """The JSON schema that the answer has to match, if any."""
        return None if self.response_format is None else self.response_format.demanded

    @property
    def usage_events(self) -> UsageEvents:
        """The events of a stream that report the usage; all of them with vLLM's continuous_usage_stats."""
        if self.stream_options is None or not self.stream_options.include_usage:
            return "none"
        return "all" if self.stream_options.continuous_usage_stats else "last"

    def take_defaults(self, defaults: Mapping[str, float]) -> None:
        """Fills the fields that were left out with this server's default values."""
        for name, value in defaults.items():
            if name in type(self).model_fields and name not in self.model_fields_set:
                setattr(self, name, value)

    @property
    def obfuscate(self) -> bool:
        """True if a stream's events hide how long its parts are."""
        return self.stream_options is not None and self.stream_options.include_obfuscation

    @property
    def sampling(self) -> SamplingParams:
        return SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=max(int(self.top_k), 0),
            min_p=self.min_p,
            seed=self.seed,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            logit_bias=self.logit_bias,
        )


class CompletionBody(GenerationBody):
    """The body of POST /v1/completions."""

    prompt: str | list[Token] | list[str] | list[list[Token]]
    max_tokens: int = Field(16, ge=0)
    echo: bool = False
    add_special_tokens: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=5)
    best_of: int | None = Field(None, ge=0, le=MAX_CHOICES)

    @model_validator(mode="before")
    @classmethod
    def _prompt_within_reason(cls, document: Any, info: ValidationInfo) -> Any:
        """Validation looks at every token, on the event loop: what is hopeless is refused by its length."""
        if isinstance(document, dict) and isinstance(info.context, Limits):
            info.context.check(document.get("prompt"))
        return document

    @model_validator(mode="after")
    def _candidates_enough(self) -> CompletionBody:
        if self.best_of and self.best_of < self.n:
            raise FieldError("best_of", f"best_of is {self.best_of}, and n asks for {self.n} of them")
        if self.stream and self.candidates > self.n:
            raise FieldError(
                "best_of", "best_of more than n cannot be streamed: the best is known at the end"
            )
        return self

    @property
    def candidates(self) -> int:
        """The number of answers to generate for each prompt; the best `n` of them are given."""
        return self.best_of or self.n

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """One or more prompts, each text or tokens."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return cast("list[str] | list[list[int]]", self.prompt)


class TalkBody(GenerationBody, ToolFields):
    """The fields that all requests have in common whose answers may call tools."""

    @model_validator(mode="after")
    def _tools_end_the_answer(self) -> TalkBody:
        if self.tool_use and self.tool_use.choice != "none" and (self.ignore_eos or self.min_tokens):
            name = "ignore_eos" if self.ignore_eos else "min_tokens"
            raise FieldError(name, f"{name}: an answer that may call tools ends with its last call")
        return self


class ChatBody(TemplateOptions, TalkBody):
    """The body of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=10_000)
    service_tier: Literal["auto", "default"] | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)

    @model_validator(mode="after")
    def _scores_asked_for(self) -> ChatBody:
        if self.top_logprobs and not self.logprobs:
            raise FieldError("top_logprobs", "top_logprobs needs logprobs to be true")
        return self

    @property
    def limit(self) -> int | None:
        """The most tokens to generate; None: as many as fit."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


def _token(key: Any) -> int:
    if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10:
        return int(key)
    raise FieldError("logit_bias", "logit_bias maps token ids, written as decimal numbers, to biases")
