"""What documents in requests have in common: other fields are refused, null stands for the default."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator


class Strict(BaseModel):
    """No other fields. Null stands for the default everywhere: OpenAI's client repeats fields of later
    versions so. `dropped`: fields that say nothing to a model.
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
