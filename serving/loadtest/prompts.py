"""Prompts: of a wanted length in tokens, or from the user's file."""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable, Iterator
from itertools import count, cycle, islice
from pathlib import Path

from compressor.errors import UserError

Prompts = Callable[[int], Iterator[str]]
"""Endless prompts for a seed."""

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


def word_prompts(words: int) -> Prompts:
    """Prompts of `words` words, each a different shuffle of the same ones.

    The same words in another order take (nearly) the same number of tokens under any tokenizer,
    and different first words keep a server's prefix cache out of the measurement.
    """

    def prompts(seed: int) -> Iterator[str]:
        draw = random.Random(seed)
        chosen = list(islice(cycle(WORDS), words))
        while True:
            draw.shuffle(chosen)
            yield " ".join(chosen)

    return prompts


async def fitted_prompts(tokens: int, count_tokens: Callable[[str], Awaitable[int | None]]) -> Prompts:
    """Word prompts as close to `tokens` tokens as whole words come, and no longer if one word fits.

    `count_tokens` asks the server for the length of a text; where it cannot tell (None), a word is
    taken for a token. The true lengths are in the result, from the server's usage reports.
    """
    words = max(1, tokens // 8)
    fits, too_long = 0, tokens + 1
    for _ in range(MOST_PROBES):
        found = await count_tokens(next(word_prompts(words)(0)))
        if found is None:
            return word_prompts(tokens)
        if found <= tokens:
            fits = words
        else:
            too_long = words
        if found == tokens or too_long - fits <= 1:
            break
        words = min(max(words * tokens // max(found, 1), fits + 1), too_long - 1)
    return word_prompts(max(fits, 1))


def file_prompts(path: Path) -> Prompts:
    """The prompts of a file in turn: text with one on a line, or JSON lines (`.jsonl`).

    A JSON line is a string or an object with a "prompt" or "text".

    Raises:
        UserError: if the file cannot be read or holds no prompt.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The prompts file {path} cannot be read: {error}") from error
    if path.suffix == ".jsonl":
        lines = [_json_prompt(line, path, number) for number, line in zip(count(1), lines, strict=False)]
    if not lines:
        raise UserError(f"The prompts file {path} holds no prompt", "Write one prompt on each line.")
    return lambda seed: islice(cycle(lines), seed % len(lines), None)


def _json_prompt(line: str, path: Path, number: int) -> str:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UserError(f"Prompt {number} of {path} is not JSON: {error}") from error
    if isinstance(value, dict):
        value = value.get("prompt", value.get("text"))
    if not isinstance(value, str):
        raise UserError(
            f"Prompt {number} of {path} is neither a string nor an object with a string 'prompt' or 'text'"
        )
    return value
