"""What onnxruntime-genai makes of an exported folder: logits and tokens, greedily or as its options say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as genai

PADDING = 0
"""The padding token of the models here; prompts do not contain it."""
END = 119
"""Their token that ends answers."""


@dataclass(frozen=True)
class Generated:
    """The tokens [n] after a prompt, and the logits [n, V] that each was chosen by."""

    tokens: np.ndarray
    logits: np.ndarray


def start(model: genai.Model, prompts: Sequence[np.ndarray], **options: Any) -> genai.Generator:
    """A generator that has read prompts, padded as the library's tokenizer pads them: on the right."""
    params = genai.GeneratorParams(model)
    params.set_search_options(**{"batch_size": len(prompts), "max_length": 64, "do_sample": False} | options)
    generator = genai.Generator(model, params)
    padded = np.full((len(prompts), max(map(len, prompts))), PADDING, np.int32)
    for row, prompt in zip(padded, prompts, strict=True):
        row[: len(prompt)] = prompt
    generator.append_tokens(padded if len(prompts) > 1 else padded[0])
    return generator


def generate(folder: Path, prompts: Sequence[np.ndarray], count: int, **options: Any) -> list[Generated]:
    """The likeliest tokens after each prompt of a batch, up to its end; behind that there is padding."""
    generator = start(genai.Model(str(folder)), prompts, **options)
    chosen, logits = [], []
    for _ in range(count):
        logits.append(np.array(generator.get_logits()).reshape(len(prompts), -1))
        generator.generate_next_token()
        chosen.append(np.array(generator.get_next_tokens()))
    rows = []
    for tokens, scored in zip(np.stack(chosen, 1), np.stack(logits, 1), strict=True):
        ends = [*np.flatnonzero(tokens == END), count]
        assert (tokens[ends[0] + 1 :] == PADDING).all()
        rows.append(Generated(tokens[: ends[0] + 1], scored[: ends[0] + 1]))
    return rows
