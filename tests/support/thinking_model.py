"""Servers of a tiny model that says what a test wants.

The server, the scheduler, the tokenizer, the template and the ONNX graph are the real ones; only the logit of
the wanted token is raised.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AddedToken, PreTrainedTokenizerFast

from lathe.compressor.export.dense import dense_artefact
from support.tiny_server import Running, running, save_checkpoint

TURNS = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
QWEN = (
    TURNS.replace("m['content']", "m['content'].split('</think>')[-1]")
    + "{% if add_generation_prompt %}<|assistant|>\n"
    + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    + "{% endif %}"
)
OPENED = QWEN.replace("<|assistant|>\n", "<|assistant|><think>\n")
CLOSED = QWEN.replace("<|assistant|>\n", "<|assistant|><think>\n\n</think>\n\n")
HARMONY = (
    "{% for m in messages %}<|start|>{{ m['role'] }}<|message|>{{ m['content'] }}<|end|>{% endfor %}"
    "{# <|channel|>analysis #}<|start|>assistant"
)
THINK = ("<think>", "</think>")
HARMONY_MARKS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|constrain|>")


def save_thinking(directory: Path, template: str, marks: tuple[str, ...] = THINK) -> Path:
    """An artefact whose tokenizer has the marks: as plain added tokens, harmony's as special ones."""
    checkpoint = save_checkpoint(directory / "model", vocab_size=328)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint)
    tokenizer.add_tokens(
        [AddedToken(mark, special=mark.startswith("<|"), normalized=False) for mark in marks]
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(checkpoint)
    return dense_artefact(str(checkpoint), directory / "cache")


@contextmanager
def saying(artefact: Path, text: str, **options: Any) -> Iterator[Running]:
    """A server that answers everything with `text`, and then ends."""
    with running(artefact, **options) as server:
        say(server, text)
        yield server


def say(server: Running, text: str) -> None:
    """What the server answers from now on."""
    server.runner.script = [*server.service.tokenizer.encode(text, special=False).tolist(), 1]
