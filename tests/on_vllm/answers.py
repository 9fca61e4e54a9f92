"""What a vLLM engine answers, and how far that is from plain PyTorch's log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from vllm import LLM, SamplingParams

from support.tiny_llama import VOCAB

ENGINE: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "skip_tokenizer_init": True,
    "max_model_len": 512,
    "num_gpu_blocks_override": 64,
    "enable_prefix_caching": False,
    "disable_log_stats": False,
}
LENGTHS = (2, 17, 129, 33, 300, 64)
NEW = 24
Logprobs = dict[int, float]


@dataclass(frozen=True)
class Answer:
    """`scored[i]`: log-probabilities that the engine gave for the token at position i of `ids`. `cached`:
    tokens of the prompt that it had in its cache."""

    prompt: list[int]
    new: list[int]
    scored: dict[int, Logprobs]
    cached: int

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.new


@dataclass(frozen=True)
class Distance:
    """Against a reference that reads the engine's own tokens. misses: how much likelier the reference's
    choice was, for every token where it chose otherwise. largest: difference of log-probabilities."""

    misses: list[float]
    largest: float


def prompts(vocab: int = VOCAB, lengths: Sequence[int] = LENGTHS) -> list[list[int]]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(2, vocab, (n,), generator=generator).tolist() for n in lengths]


@contextmanager
def engine(checkpoint: Path, **options: Any) -> Iterator[LLM]:
    """An engine that has ended when the block has: its end takes down what all of a process share."""
    llm = LLM(str(checkpoint), **ENGINE | options)
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()


def ask(llm: LLM, asked: list[list[int]], score_prompts: bool = True, **options: Any) -> list[Answer]:
    """Greedy answers to all prompts in one batch; `options` are those of `LLM.generate`."""
    sampling = SamplingParams(
        max_tokens=NEW,
        temperature=0,
        logprobs=5,
        prompt_logprobs=5 if score_prompts else None,
        detokenize=False,
        ignore_eos=True,
    )
    questions = [{"prompt_token_ids": prompt} for prompt in asked]
    outputs = llm.generate(questions, sampling, use_tqdm=False, **options)
    answers = []
    for prompt, output in zip(asked, outputs, strict=True):
        given = [*(output.prompt_logprobs or [None] * len(prompt)), *output.outputs[0].logprobs]
        scored = {
            i: {token: entry.logprob for token, entry in entries.items()}
            for i, entries in enumerate(given)
            if entries is not None
        }
        new = list(output.outputs[0].token_ids)
        answers.append(Answer(prompt, new, scored, output.num_cached_tokens or 0))
    return answers


@torch.inference_mode()
def distance(reference: nn.Module, answers: list[Answer]) -> Distance:
    misses, largest = [], 0.0
    for answer in answers:
        expected = reference(torch.tensor([answer.ids])).logits[0].float().log_softmax(-1)
        for i, scores in answer.scored.items():
            ids, values = torch.tensor(list(scores)), torch.tensor(list(scores.values()))
            largest = max(largest, float((values - expected[i - 1, ids]).abs().max()))
        for i in range(len(answer.prompt), len(answer.ids)):
            row = expected[i - 1]
            if answer.ids[i] != int(row.argmax()):
                misses.append(float(row.max() - row[answer.ids[i]]))
    return Distance(misses, largest)
