"""The samples of a run: the same prompts for dense and subnet, and what each wrote."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from lathe.artefact.errors import UserError
from lathe.compressor.calibration.tokens import load_tokenizer
from lathe.compressor.evaluate.samples import Prompt, continuations, prompts
from lathe.compressor.pipeline.preflight_result import PreflightResult


@dataclass
class SampleCollector:
    """Collects continuations model by model, so that only one has to be in memory."""

    tokenizer: Any
    prompts: list[Prompt]
    eos: frozenset[int]
    written: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def none(cls) -> SampleCollector:
        """Returns a collector without prompts."""
        return cls(None, [], frozenset())

    @classmethod
    def for_run(cls, preflight: PreflightResult, windows_BT: torch.Tensor) -> SampleCollector:
        """Chooses prompts; none where the model has no tokenizer, or its layers are read for every token."""
        if not preflight.memory.loads_whole:
            return cls.none()
        try:
            tokenizer = load_tokenizer(preflight.source)
        except UserError:
            return cls.none()
        value = preflight.source.config.get("eos_token_id")
        eos = frozenset(value if isinstance(value, list) else [value]) - {None}
        return cls(tokenizer, prompts(tokenizer, windows_BT, preflight.source.shape.vocab_size), eos)

    def collect(self, name: str, model: Callable[..., Any]) -> None:
        """Lets a model continue every prompt."""
        self.written[name] = continuations(model, self.tokenizer, self.prompts, self.eos)

    def rows(self) -> list[dict[str, Any]]:
        """Returns one row for each prompt, with what every model wrote."""
        return [
            {"prompt": prompt.text, "chat": prompt.chat, **{n: texts[i] for n, texts in self.written.items()}}
            for i, prompt in enumerate(self.prompts)
        ]
