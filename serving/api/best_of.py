"""`best_of`: gives those of several answers to a prompt that have the highest log-probability per token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from lathe.serving.api.answer import Json
from lathe.serving.api.response_builder import CompletionWriter
from lathe.serving.api.schemas import CompletionBody
from lathe.serving.api.service import Service
from lathe.serving.backend import GenerationRequest, RequestOutput


class BestOfWriter(CompletionWriter):
    """Gives the best `n` of every `best_of` answers, the best first. The tokens of all are counted."""

    def __init__(
        self,
        service: Service,
        requests: Sequence[GenerationRequest],
        body: CompletionBody,
        echoes: Sequence[str],
    ) -> None:
        """Creates the writer; `requests` and `echoes` are grouped by prompt."""
        super().__init__(service, requests, "none", echoes)
        self._with_logprobs = body.logprobs is not None
        self._candidates, self._kept = body.candidates, body.n
        self._count = len(requests) // self._candidates * self._kept

    def whole(self, outputs: Sequence[RequestOutput]) -> Json:
        kept = self._best(outputs)
        for output in outputs:
            self._prompt.read(output)
        self._completion_tokens += sum(output.num_tokens for output in outputs if output.index not in kept)
        self._echoes = [self._echoes[old] for old in kept]
        self._places = [self._places[old] for old in kept]
        places = {old: new for new, old in enumerate(kept)}
        given = [output for output in outputs if output.index in places]
        return super().whole(
            [replace(output, index=places[output.index], num_cached_tokens=None) for output in given]
        )

    def _best(self, outputs: Sequence[RequestOutput]) -> list[int]:
        """Returns the indices of the answers to give, in order."""
        logprobs: dict[int, list[float]] = {index: [] for index in range(len(self._echoes))}
        for output in outputs:
            logprobs[output.index] += [entry.logprob or 0.0 for entry in output.logprobs]
        mean = {index: fmean(values or [0.0]) for index, values in logprobs.items()}
        prompts = range(0, len(mean), self._candidates)
        ranked = [sorted(range(at, at + self._candidates), key=lambda i: -mean[i]) for at in prompts]
        return [index for order in ranked for index in order[: self._kept]]
