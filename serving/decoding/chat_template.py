"""The artefact's chat template: which variables it reads, and rendering."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lathe.artefact.errors import UserError

Scalar = str | int | float | bool | None
GIVEN = frozenset({"messages", "xml_tools", "raise_exception", "strftime_now"})
"""Names that a template may read and that variables may not set, like the arguments of the renderer."""
SWITCHES = ("enable_thinking", "thinking")
"""Variables that turn thinking on and off, by what templates of known models call them."""


class TemplateError(ValueError):
    """The chat template refused the messages, or their settings; `field` is what is at fault."""

    def __init__(self, message: str, field: str = "messages") -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Rendering:
    """How a chat becomes a prompt.

    Attributes:
        variables: of the template.
        generation_prompt: whether the answer gets a header.
        continue_final: whether the answer continues the last message.
        special: whether the special tokens that surround plain text are added to the template's own.
    """

    variables: Mapping[str, Scalar] = field(default_factory=dict)
    generation_prompt: bool = True
    continue_final: bool = False
    special: bool = False


class ChatTemplate:
    """Renders chats with a tokenizer of transformers."""

    def __init__(self, hf: Any, defaults: Mapping[str, Scalar] | None = None) -> None:
        """Reads the template.

        Args:
            hf: the tokenizer.
            defaults: variables for every chat.

        Raises:
            UserError: the template does not read one of the variables.
        """
        self._hf = hf
        template = hf.chat_template
        self.source = (template.get("default") if isinstance(template, dict) else template) or ""
        self.exists = bool(template)
        self._names = _names_read(hf) if self.exists else frozenset()
        arguments = set(inspect.signature(hf.apply_chat_template).parameters)
        self.variables = self._names - GIVEN - arguments - set(hf.special_tokens_map)
        self._defaults = dict(defaults or {})
        if unknown := sorted(set(self._defaults) - self.variables):
            raise UserError(
                f"--default-chat-template-kwargs: this model's chat template reads no {unknown[0]!r}",
                self._readable(),
            )

    def effort(self, effort: str) -> dict[str, Scalar]:
        """Returns the variables that stand for a `reasoning_effort`.

        Raises:
            TemplateError: the template has none.
        """
        found: dict[str, Scalar] = {name: effort != "none" for name in SWITCHES if name in self.variables}
        if "reasoning_effort" in self.variables and not (found and effort == "none"):
            found["reasoning_effort"] = effort
        if not found:
            raise TemplateError(
                "this model's chat template knows neither reasoning_effort nor enable_thinking",
                "reasoning_effort",
            )
        return found

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        how: Rendering,
    ) -> str:
        """Renders a chat; SmolLM3's template calls its tools xml_tools.

        Raises:
            TemplateError: the template refuses the messages.
        """
        import jinja2

        self._check(messages, how)
        try:
            text = self._hf.apply_chat_template(
                [dict(message) for message in messages],
                tools=list(tools) if tools else None,
                tokenize=False,
                add_generation_prompt=how.generation_prompt and not how.continue_final,
                continue_final_message=how.continue_final,
                **({"xml_tools": list(tools)} if tools else {}),
                **{**self._defaults, **how.variables},
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            reason = str(error).partition("Final message to continue:")[0]
            raise TemplateError(f"the chat template refused the messages: {reason}") from None
        return str(text)

    def _check(self, messages: Sequence[Mapping[str, Any]], how: Rendering) -> None:
        if unknown := sorted(set(how.variables) - self.variables):
            raise TemplateError(
                f"this model's chat template reads no {unknown[0][:60]!r}. {self._readable()}",
                "chat_template_kwargs",
            )
        if how.continue_final and (not messages or messages[-1].get("role") != "assistant"):
            raise TemplateError(
                "continue_final_message continues a message of the assistant; the last message is none",
                "continue_final_message",
            )
        if how.continue_final and messages[-1].get("tool_calls"):
            raise TemplateError(
                "continue_final_message: the last message ends with tool calls, which nothing can continue",
                "continue_final_message",
            )
        asked = how.generation_prompt or how.continue_final
        if not asked and "add_generation_prompt" not in self._names:
            raise TemplateError(
                "this model's chat template does not read add_generation_prompt", "add_generation_prompt"
            )

    def _readable(self) -> str:
        return f"It reads {', '.join(sorted(self.variables)) or 'none'}."


def read_variables(text: str | None) -> dict[str, Scalar]:
    """Parses the value of --default-chat-template-kwargs.

    Raises:
        UserError: it is not an object of plain values.
    """
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"--default-chat-template-kwargs is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(
            "--default-chat-template-kwargs is not a JSON object",
            "Write it like '{\"enable_thinking\": false}'.",
        )
    for name, value in found.items():
        if not isinstance(value, str | int | float | bool | None):
            raise UserError(
                f"--default-chat-template-kwargs: {name} is not a plain value",
                "Give strings, numbers, true, false or null.",
            )
    return found


def _names_read(hf: Any) -> frozenset[str]:
    """Returns the names that the template, or any of several, takes from outside.

    Raises:
        UserError: the template is not valid.
    """
    import jinja2
    from jinja2 import meta
    from jinja2.ext import Extension, loopcontrols

    class Generation(Extension):
        """`{% generation %}`, which transformers adds to the language."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = jinja2.Environment(extensions=[Generation, loopcontrols])
    templates = hf.chat_template.values() if isinstance(hf.chat_template, dict) else [hf.chat_template]
    found: set[str] = set()
    for template in templates:
        try:
            found |= meta.find_undeclared_variables(environment.parse(template))
        except jinja2.TemplateError as error:
            raise UserError(f"the chat template is not valid: {error}", "Mend chat_template.jinja.") from None
    return frozenset(found)
