"""Accuracy of subnets on zero-shot tasks: requests, tokens and metrics are lm-eval's, log-likelihoods ours.

lm-eval runs a question again for each of its choices, with logits at every position. Here what choices have
in common runs once (packing.py), rows of like lengths run together, and the head reads only where an answer
stands: the logits of a vocabulary of 262,144 cost more than the decoder. lm-eval is the `eval` extra; nothing
else of the comparison needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.quality.packing import Batch, Row, Text, packed
from benchmarks.quality.score import logprobs_in_slices
from benchmarks.quality.setting import TOGETHER, Setting, Subnet
from lathe.compressor.evaluate.compare import load_tokenizer
from lathe.compressor.evaluate.tasks import Tasks
from lathe.compressor.model.lm_head import LMHead


@dataclass(frozen=True)
class Exam:
    """Tasks for subnets of one model. limit: items of each task; None: all."""

    model: str
    tasks: Tasks
    limit: int | None = None

    @classmethod
    def open(cls, model: str, names: str, directory: Path | None, limit: int | None) -> Exam:
        return cls(model, Tasks.open(names, directory), limit)

    def results(self, setting: Setting, subnet: Subnet) -> dict[str, dict[str, float]]:
        """lm-eval's metrics of every task; groups that it makes of them are left out."""
        found = self.tasks.score(_harness(self.model, Answers(setting, subnet)), self.model, self.limit)
        single = set(self.tasks.manager.all_subtasks)
        return {name: numbers for name, numbers in found.items() if name in single}


def mean_accuracy(results: dict[str, dict[str, float]]) -> float:
    """The mean over tasks, large and small ones alike."""
    return sum(numbers["acc"] for numbers in results.values()) / len(results)


Request = tuple[tuple[str, str] | None, list[int], list[int]]
"""What lm-eval asks: its strings, tokens of the context, tokens whose likelihood is asked for."""


@dataclass(frozen=True)
class Answers:
    """Log-likelihoods of continuations by one subnet."""

    setting: Setting
    subnet: Subnet

    @torch.inference_mode()
    def of(self, requests: Sequence[Request], longest: int) -> list[tuple[float, bool]]:
        """(log-likelihood of the continuation, whether it is the likeliest token by token) by request.

        Of a text of more than `longest` tokens the beginning is left out, as lm-eval does.
        """
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        by_input: dict[Text, list[int]] = {}
        for index, (_, context, asked) in enumerate(requests):
            by_input.setdefault(tuple([*context, *asked][-(longest + 1) :][:-1]), []).append(index)
        for rows in self._batches(by_input):
            hidden = self._hidden(rows)
            states, asked_tokens, indices = [], [], []
            for number, row in enumerate(rows):
                for text, places in zip(row.texts, row.places(), strict=True):
                    for index in by_input[text]:
                        asked = requests[index][2]
                        states.append(hidden[number, places[-len(asked) :]])
                        asked_tokens.append(torch.tensor(asked))
                        indices.append(index)
            likelihoods, likeliest = _read(self.subnet.head, torch.cat(states), torch.cat(asked_tokens))
            sizes = [len(part) for part in asked_tokens]
            parts = zip(indices, likelihoods.split(sizes), likeliest.split(sizes), strict=True)
            for index, values, hits in parts:
                answers[index] = float(values.sum()), bool(hits.all())
        return answers

    def _hidden(self, rows: Sequence[Row]) -> torch.Tensor:
        batch, runner = Batch.of(rows), self.setting.runner
        if all(len(row.texts) == 1 for row in rows):
            return self.subnet.hidden(batch.tokens)
        with runner.placed(runner.packed(batch.positions, batch.seen)):
            return self.subnet.hidden(batch.tokens)

    def _batches(self, texts: Iterable[Text]) -> Iterator[list[Row]]:
        """Rows in order of length, as many at a time as `TOGETHER` allows."""
        alone = bool(self.setting.shape.learned_positions)  # which are read with the tokens
        rows = [Row((text,), len(text)) for text in texts] if alone else packed(texts)
        batch: list[Row] = []
        for row in sorted(rows, key=lambda one: (len(one), one.texts)):
            if batch and (len(batch) + 1) * len(row) > TOGETHER:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch


def _read(head: LMHead, states_ND: torch.Tensor, asked_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [N] of tokens, and whether each is the likeliest."""
    likelihoods, likeliest, left = [], [], asked_N
    for logprobs in logprobs_in_slices(head, states_ND):
        asked, left = left[: len(logprobs)], left[len(logprobs) :]
        likelihoods.append(logprobs.gather(-1, asked[:, None])[:, 0])
        likeliest.append(logprobs.argmax(-1) == asked)
    return torch.cat(likelihoods), torch.cat(likeliest)


def _harness(model: str, answers: Answers) -> Any:
    """lm-eval's model class of the dense checkpoint, whose likelihoods come from elsewhere."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoConfig

    class Harness(HFLM):
        def _loglikelihood_tokens(
            self, requests: list[Request], **_progress: Any
        ) -> list[tuple[float, bool]]:
            return answers.of(requests, self.max_length)

        def generate_until(self, requests: list[Any], **_progress: Any) -> list[str]:
            raise NotImplementedError("tasks that write text are not run on subnets in memory")

        def get_model_info(self) -> dict[str, Any]:
            return {}

    named = SimpleNamespace(
        config=AutoConfig.from_pretrained(model), device=torch.device("cpu"), name_or_path=model
    )
    return Harness(pretrained=named, tokenizer=load_tokenizer(model))
