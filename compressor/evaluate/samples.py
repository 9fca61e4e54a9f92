"""Samples: greedy continuations of a few prompts, to compare what dense and subnet write."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import torch

from lathe.artefact.modeling.cache import new_cache

QUESTIONS = ("What is a library for? Answer in one sentence.", "Name three uses of water.")
OPENINGS = ("A library is a place where", "In the morning the children")
TOKENS = 40
"""The largest number of tokens of an answer."""
_HEAD = 24


@dataclass(frozen=True)
class Prompt:
    """A prompt.

    Attributes:
        text: The text as it is shown.
        tokens: The tokens that the model is given.
        chat: Whether the chat template is around the text.
    """

    text: str
    tokens: list[int]
    chat: bool = False


def prompts(tokenizer: Any, windows_BT: torch.Tensor, vocab_size: int) -> list[Prompt]:
    """Returns two fixed prompts, and the beginnings of two windows.

    The fixed prompts are questions where the model has a chat template. A prompt with a token that the model
    has no embedding for is left out.
    """
    found = [
        _question(tokenizer, text) or _opening(tokenizer, opening)
        for text, opening in zip(QUESTIONS, OPENINGS, strict=True)
    ]
    for window in windows_BT[:: max(1, len(windows_BT) // 2)][:2]:
        head = window[:_HEAD].tolist()
        found.append(Prompt(tokenizer.decode(head, skip_special_tokens=True), head))
    return [prompt for prompt in found if prompt.tokens and max(prompt.tokens) < vocab_size]


def _question(tokenizer: Any, text: str) -> Prompt | None:
    if not tokenizer.chat_template:
        return None
    try:
        chat = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
    except (jinja2.TemplateError, TypeError, ValueError, LookupError):
        return None  # a template that wants more than one user's message
    return Prompt(text, tokenizer(chat, add_special_tokens=False)["input_ids"], chat=True)


def _opening(tokenizer: Any, text: str) -> Prompt:
    return Prompt(text, tokenizer(text)["input_ids"])


def continuations(
    model: Callable[..., Any], tokenizer: Any, given: Sequence[Prompt], eos: Collection[int]
) -> list[str]:
    """Returns the greedy continuation of each prompt by a causal LM."""
    return [
        tokenizer.decode(_greedy(model, prompt.tokens, eos), skip_special_tokens=True) for prompt in given
    ]


@torch.inference_mode()
def _greedy(model: Callable[..., Any], tokens: list[int], eos: Collection[int]) -> list[int]:
    written: list[int] = []
    past, inputs = new_cache(), torch.tensor([tokens])
    while len(written) < TOKENS:
        out = model(input_ids=inputs, use_cache=True, logits_to_keep=1, **past)
        token = int(out.logits[0, -1].argmax())
        if token in eos:
            break
        written.append(token)
        inputs = torch.tensor([[token]])
    return written
