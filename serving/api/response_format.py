"""`response_format`: the required form of an answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class NamedSchema(BaseModel):
    """A JSON schema with a name. Every schema is enforced, whatever `strict` says."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    definition: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """The required form of an answer."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _schema_where_it_belongs(self) -> ResponseFormat:
        if (self.json_schema is not None) != (self.type == "json_schema"):
            raise ValueError("json_schema belongs to the type json_schema, and to no other")
        return self

    @property
    def demanded(self) -> dict[str, Any] | None:
        """The JSON schema that the answer has to match; None for any text."""
        if self.json_schema is not None:
            return self.json_schema.definition
        return {"type": "object"} if self.type == "json_object" else None
