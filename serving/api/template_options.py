"""The fields that control how messages become a prompt, for chats and for /tokenize."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from lathe.serving.decoding.chat_template import ChatTemplate, Rendering, Scalar
from lathe.serving.http.limits import FieldError

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class TemplateOptions(BaseModel):
    """The fields of vLLM; `add_generation_prompt` defaults to true, unless the final message is continued."""

    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    add_special_tokens: bool | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: dict[str, Scalar] = Field(default_factory=dict, max_length=100)

    def rendering(self, template: ChatTemplate) -> Rendering:
        """Returns how the messages become a prompt.

        Raises:
            FieldError: two fields contradict each other.
            TemplateError: the template has no variable for the reasoning effort.
        """
        if self.add_generation_prompt and self.continue_final_message:
            raise FieldError(
                "continue_final_message",
                "continue_final_message and add_generation_prompt exclude each other",
            )
        variables = dict(self.chat_template_kwargs)
        if self.reasoning_effort is not None:
            for name, value in template.effort(self.reasoning_effort).items():
                if variables.setdefault(name, value) != value:
                    raise FieldError(
                        "reasoning_effort",
                        f"reasoning_effort {self.reasoning_effort} sets {name} to {value!r}, and"
                        f" chat_template_kwargs to {variables[name]!r}"[:500],
                    )
        return Rendering(
            variables,
            generation_prompt=self.add_generation_prompt is not False,
            continue_final=self.continue_final_message,
            special=bool(self.add_special_tokens),
        )
