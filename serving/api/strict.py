"""The base model of documents in requests: unknown fields are refused, null stands for the default."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator


class Strict(BaseModel):
    """A model that refuses unknown fields, but for those named in `dropped`, which mean nothing to a model.

    Null stands for the default everywhere, since OpenAI's client sends fields of later versions so.
    """

    model_config = ConfigDict(extra="forbid")
    dropped: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, document: Any) -> Any:
        if not isinstance(document, dict):
            return document
        return {
            name: value for name, value in document.items() if value is not None and name not in cls.dropped
        }
