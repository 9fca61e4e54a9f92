"""The samples of a run: the same prompts for dense and subnet, and what each wrote."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from lathe.artefact.errors import UserError
from lathe.compressor.calibration.tokens import load_tokenizer
from lathe.compressor.evaluate.samples import Prompt, continuations, prompts
from lathe.compressor.pipeline.preflight import PreflightResult


@dataclass
class SampleCollector:
    """Collects continuations model by model, so that only one has to be in memory."""

    tokenizer: Any
    prompts: list[Prompt]
    eos: frozenset[int]
    written: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def about(cls, card: PreflightResult, windows_BT: torch.Tensor) -> SampleCollector:
        """Prompts for a model; none where it has no tokenizer, or is read anew for every token."""
        if card.memory.on_disk:
            return cls(None, [], frozenset())
        try:
            tokenizer = load_tokenizer(card.source)
        except UserError:
            return cls(None, [], frozenset())
        value = card.source.config.get("eos_token_id")
        eos = frozenset(value if isinstance(value, list) else [value]) - {None}
        return cls(tokenizer, prompts(tokenizer, windows_BT, card.source.shape.vocab_size), eos)

    def take(self, name: str, model: Callable[..., Any]) -> None:
        """Let a model write."""
        self.written[name] = continuations(model, self.tokenizer, self.prompts, self.eos)

    def rows(self) -> list[dict[str, Any]]:
        return [
            {"prompt": prompt.text, "chat": prompt.chat, **{n: texts[i] for n, texts in self.written.items()}}
            for i, prompt in enumerate(self.prompts)
        ]
