"""Prompts of a given length in tokens, or from the user's file."""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from lathe.artefact.errors import UserError
from lathe.artefact.texts.files import lines, read_text
from lathe.artefact.texts.rows import Row, format_of
from lathe.serving.loadtest.trace import Trace

Prompts = Callable[[int], Iterator[str]]
"""Endless prompts for a seed."""

CountTokens = Callable[[str], Awaitable[int | None]]
"""Asks the server for the length of a text in tokens; None where it cannot tell."""

DEFAULT_PROMPT_TOKENS = 128
MOST_PROBES = 8

WORD_LIST = """
time year people way day man thing woman life child world school state family student group
country problem hand part place case week company system program question work government number
night point home water room mother area money story fact month lot right study book eye job word
business issue side kind head house service friend father power hour game line end member law
car city community name president team minute idea kid body information back parent face others
level office door health person art war history party result change morning reason research girl
guy moment air teacher force education foot boy age policy music market sense nation plan
college interest death experience effect use class control field development role effort rate
heart drug show leader light voice wife police mind price report decision son view relationship
town road arm difference value building action season society tax director position player
record paper space ground form event official matter center couple site project star table need
court oil situation cost industry figure street image phone data picture
"""
WORDS = WORD_LIST.split()


@dataclass(frozen=True)
class PromptChoice:
    """Prompts of `tokens` tokens from a word list, or those of `file`; a trace brings its own lengths.

    Raises:
        UserError: both are given, or the file holds no prompt.
    """

    tokens: int | None = None
    file: Path | None = None

    def __post_init__(self) -> None:
        if self.tokens is not None and self.file is not None:
            raise UserError(
                "The prompts come from a file or have a length", "Drop --prompts or --prompt-tokens."
            )
        if self.tokens is not None and self.tokens < 1:
            raise UserError(f"--prompt-tokens is {self.tokens}", "It must be at least 1.")
        if self.file is not None:
            file_prompts(self.file)

    def check(self, trace: Trace | None) -> None:
        """Checks that prompts and a trace are not both chosen.

        Raises:
            UserError: they are.
        """
        if trace is not None and (self.tokens is not None or self.file is not None):
            raise UserError(
                "A trace has the lengths of its prompts", "Drop --prompts and --prompt-tokens, or --trace."
            )

    async def make(self, trace: Trace | None, count_tokens: CountTokens) -> Prompts:
        """Makes the prompts; `count_tokens` asks the server for their lengths."""
        if self.file is not None:
            return file_prompts(self.file)
        if trace is not None:
            return await trace_prompts([r.prompt_tokens for r in trace.requests], count_tokens)
        return word_prompts([await fitted_words(self.tokens or DEFAULT_PROMPT_TOKENS, count_tokens)])

    def as_json(self) -> dict[str, Any]:
        if self.file is not None:
            return {"prompts": str(self.file)}
        return {"prompt_tokens": self.tokens or DEFAULT_PROMPT_TOKENS}


def word_prompts(lengths: Sequence[int]) -> Prompts:
    """Makes endless prompts of these numbers of words, each a different shuffle of the same words.

    The same words in another order take (nearly) the same number of tokens under any tokenizer,
    and different first words keep a server's prefix cache out of the measurement.
    """

    def prompts(seed: int) -> Iterator[str]:
        draw = random.Random(seed)
        for words in cycle(lengths):
            chosen = list(islice(cycle(WORDS), words))
            draw.shuffle(chosen)
            yield " ".join(chosen)

    return prompts


async def fitted_words(tokens: int, count_tokens: CountTokens) -> int:
    """Finds how many words come closest to `tokens` tokens without exceeding them; at least one.

    Where the server cannot count, a word is taken for a token. The true lengths are in the result,
    from the server's usage reports.
    """
    words = max(1, tokens // 8)
    fits, too_long = 0, tokens + 1
    for _ in range(MOST_PROBES):
        found = await count_tokens(next(word_prompts([words])(0)))
        if found is None:
            return tokens
        if found <= tokens:
            fits = words
        else:
            too_long = words
        if found == tokens or too_long - fits <= 1:
            break
        words = min(max(words * tokens // max(found, 1), fits + 1), too_long - 1)
    return max(fits, 1)


async def trace_prompts(tokens: Sequence[int], count_tokens: CountTokens) -> Prompts:
    """Makes word prompts of about so many tokens each, in this order.

    The shortest and the longest are fitted; the others are interpolated linearly.
    """
    least, most = min(tokens), max(tokens)
    few = await fitted_words(least, count_tokens)
    many = few if most == least else await fitted_words(most, count_tokens)
    slope = (many - few) / max(most - least, 1)
    return word_prompts([max(1, round(few + slope * (wanted - least))) for wanted in tokens])


def file_prompts(path: Path) -> Prompts:
    """Reads the prompts of a file: text with one on a line, or rows of JSON lines, JSON, CSV or Parquet.

    A row is a string or an object with a "prompt" or "text".

    Raises:
        UserError: the file cannot be read or holds no prompt.
    """
    if not path.is_file():
        raise UserError(f"The prompts file {path} cannot be read: there is no such file")
    form = format_of(path)
    if form:
        prompts = [_prompt(row) for row in form(path)]
    else:
        prompts = [line for _, line in lines(read_text(path))]
        if prompts and _is_object(prompts[0]):
            raise UserError(f"The prompts file {path} holds JSON", "Call it .jsonl if each line is a prompt.")
    if not prompts:
        raise UserError(f"The prompts file {path} holds no prompt", "Write one prompt on each line.")
    return lambda seed: islice(cycle(prompts), seed % len(prompts), None)


def _prompt(row: Row) -> str:
    value = row.value
    if isinstance(value, dict):
        value = value.get("prompt", value.get("text"))
    if not isinstance(value, str):
        raise UserError(
            f"{row.place} is neither a string nor an object with a string 'prompt' or 'text'",
            "Give each prompt as one.",
        )
    return value


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
