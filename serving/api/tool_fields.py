"""The fields of a request that are about tools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    PlainValidator,
    StrictBool,
    field_validator,
    model_validator,
)

from lathe.serving.api.messages import Lenient, complain
from lathe.serving.http.limits import FieldError
from lathe.serving.tools.grammar import Choice, Tool

MAX_TOOLS = 128
NAME = r"^[a-zA-Z0-9_-]{1,64}$"


class FunctionDefinition(Lenient):
    """A function that the model may call.

    Without `strict`, keywords of the schema that cannot be enforced are left to the caller to check, as at
    OpenAI.
    """

    name: str = Field(pattern=NAME)
    description: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    strict: bool = False

    @model_validator(mode="after")
    def _an_object(self) -> FunctionDefinition:
        kind = self.parameters.get("type", "object")
        if kind != "object" and kind != ["object"]:
            raise complain("the parameters of {name} have to be of type object", name=repr(self.name))
        self.parameters = self.parameters or {"type": "object", "properties": {}}
        return self


class FunctionTool(Lenient):
    """A tool that is a function."""

    type: Literal["function"]
    function: FunctionDefinition

    @field_validator("type", mode="before")
    @classmethod
    def _functions_only(cls, given: Any) -> Any:
        if isinstance(given, str) and given != "function":
            raise complain("only tools of type function are supported, got {got}", got=given[:40])
        return given

    def for_template(self) -> dict[str, Any]:
        """Returns the tool in the form that templates show."""
        function = self.function
        shown: dict[str, Any] = {"name": function.name}
        if function.description is not None:
            shown["description"] = function.description
        return {"type": "function", "function": shown | {"parameters": function.parameters}}


@dataclass(frozen=True, slots=True)
class Chosen:
    """A `tool_choice`; `names` are the only tools that may be called."""

    choice: Choice
    names: tuple[str, ...] | None = None


def _named(given: Any) -> str | None:
    """Returns the function that `{"type": "function", "function": {"name": ...}}` names."""
    match given:
        case {"type": "function", "function": {"name": str(name), **more}, **others}:
            return None if more or others else name
    return None


def _chosen(given: Any) -> Chosen:
    match given:
        case "none" | "auto" | "required":
            return Chosen(given)
        case {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [*tools]}}:
            names = [name for tool in tools if (name := _named(tool))]
            if mode in ("auto", "required") and names and len(names) == len(tools):
                return Chosen(mode, tuple(names))
        case _ if name := _named(given):
            return Chosen("required", (name,))
    raise FieldError(
        "tool_choice",
        "tool_choice is none, auto, required, {'type': 'function', 'function': {'name': ...}} or "
        "{'type': 'allowed_tools', 'allowed_tools': {'mode': ..., 'tools': [...]}}",
    )


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A request's tools: `shown` to the template, and `callable` by the model."""

    shown: list[dict[str, Any]]
    callable: list[Tool]
    choice: Choice
    several: bool


class ToolFields(BaseModel):
    """`tools` and the fields that belong to them."""

    tools: list[FunctionTool] = Field([], max_length=MAX_TOOLS)
    tool_choice: Annotated[
        Chosen | None, PlainValidator(_chosen, json_schema_input_type=str | dict[str, Any] | None)
    ] = None
    parallel_tool_calls: StrictBool = True

    @model_validator(mode="after")
    def _tools_that_exist(self) -> ToolFields:
        names = [tool.function.name for tool in self.tools]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise FieldError("tools", f"two of the tools are called {twice!r}")
        chosen = self.tool_choice or Chosen("auto")
        if not names and (chosen.choice == "required" or chosen.names):
            raise FieldError("tool_choice", "tool_choice is only allowed when tools are given")
        if unknown := next((name for name in chosen.names or () if name not in names), None):
            raise FieldError("tool_choice", f"tool_choice: there is no tool {unknown[:64]!r} among the tools")
        return self

    @property
    def tool_use(self) -> ToolUse | None:
        """None where there are no tools."""
        if not self.tools:
            return None
        chosen = self.tool_choice or Chosen("auto")
        functions = [tool.function for tool in self.tools]
        return ToolUse(
            shown=[tool.for_template() for tool in self.tools] if chosen.choice != "none" else [],
            callable=[
                Tool(function.name, function.parameters, function.strict)
                for function in functions
                if chosen.names is None or function.name in chosen.names
            ],
            choice=chosen.choice,
            several=self.parallel_tool_calls,
        )
