"""Thinking is told from the answer by the marks of the template, however the text is cut into tokens."""

from __future__ import annotations

import pytest

from lathe.serving.decoding.reasoning import FORMATS, Marked, reasoning_format

CHANNEL, MESSAGE, END, START = "<|channel|>", "<|message|>", "<|end|>", "<|start|>"
FINAL = f"{START}assistant{CHANNEL}final{MESSAGE}"
COMMENTARY = f"{START}assistant{CHANNEL}commentary{MESSAGE}"
THINK_TEMPLATE = "{{ content.split('</think>')[-1] }}"
HARMONY_TEMPLATE = "<|start|>assistant<|channel|>analysis<|message|>{{ thinking }}<|end|>"


def split(template: str, prompt_end: str, text: str, size: int) -> tuple[str, str]:
    """(thinking, answer) of `text` that comes in pieces of `size`."""
    kind = reasoning_format(template)
    assert kind is not None
    splitter = kind.begin(prompt_end)
    pieces = [piece for at in range(0, len(text), size) for piece in splitter.push(text[at : at + size])]
    pieces += splitter.flush()
    thought = "".join(text for kind, text in pieces if kind == "reasoning")
    return thought, "".join(text for kind, text in pieces if kind == "content")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize(
    ("prompt_end", "text", "thought", "answer"),
    [
        ("<|assistant|>\n", "<think>\na < b </thin k\n</think>\n\nYes.\n", "a < b </thin k", "Yes.\n"),
        ("<|assistant|>\n", "\n<think>\n\n</think>\n\nYes.", "", "Yes."),
        ("<|assistant|>\n", " Yes. <think>x</think>", "", " Yes. <think>x</think>"),
        ("<|assistant|>\n", "<think>never ends ", "never ends", ""),
        ("<|assistant|>\n", "<thinking aloud", "", "<thinking aloud"),
        ("<|assistant|>\n", "<thi", "", "<thi"),
        ("<|assistant|>\n", "  ", "", "  "),
        ("<|assistant|><think>\n", "Hm.\n</think>\n\nYes.", "Hm.", "Yes."),
        ("<|assistant|><think>\n", "<think>\nHm.</think>Yes.", "Hm.", "Yes."),
        ("<|assistant|><think>", "</think>Yes.", "", "Yes."),
        ("<|assistant|><think>", "Hm. </thi", "Hm. </thi", ""),
        ("<|assistant|><think>\n\n</think>\n\n", "Yes. </think>", "", "Yes. </think>"),
    ],
)
def test_marks_end_the_thinking(prompt_end: str, text: str, thought: str, answer: str, size: int):
    assert split(THINK_TEMPLATE, prompt_end, text, size) == (thought, answer)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        (f"{CHANNEL}analysis{MESSAGE}Hm. <|x{END}{FINAL}Yes <|", "Hm. <|x", "Yes <|"),
        (f"{CHANNEL}final{MESSAGE}Yes.", "", "Yes."),
        (f"{CHANNEL}analysis{MESSAGE}a{END}{COMMENTARY}b{END}{FINAL}c", "a\nb", "c"),
        (f"{CHANNEL}analysis{MESSAGE}cut", "cut", ""),
        (f"{CHANNEL}anal", "", ""),
        (f"{CHANNEL}analysis{MESSAGE}a{END}{START}assis", "a", ""),
        ("no marks at all", "", "no marks at all"),
    ],
)
def test_channels_tell_thinking_from_the_answer(text: str, thought: str, answer: str, size: int):
    assert split(HARMONY_TEMPLATE, "<|start|>assistant", text, size) == (thought, answer)


@pytest.mark.parametrize(
    ("said", "text", "thought", "answer"),
    [
        ("<think>Hm,", " yes.</think>Yes.", "yes.", "Yes."),
        ("<think>Hm.</think>Y", "es.", "", "es."),
        ("Y", "es. <think>", "", "es. <think>"),
        ("", "<think>Hm.</think>Yes.", "Hm.", "Yes."),
    ],
)
def test_an_answer_goes_on_where_it_was(said: str, text: str, thought: str, answer: str):
    kind = reasoning_format(THINK_TEMPLATE)
    assert kind is not None
    splitter = kind.resume(said)
    pieces = [*splitter.push(text), *splitter.flush()]
    assert "".join(text for kind, text in pieces if kind == "reasoning") == thought
    assert "".join(text for kind, text in pieces if kind == "content") == answer


@pytest.mark.parametrize("marks", [kind for kind in FORMATS if isinstance(kind, Marked)])
def test_every_pair_of_marks_is_known_by_its_template(marks: Marked):
    template = "{{ old.split('" + marks.closing + "') }}"
    assert reasoning_format(template) is marks
    text = f"{marks.opening}Hm.{marks.closing}Yes."
    assert split(template, "<|assistant|>", text, 1) == ("Hm.", "Yes.")


@pytest.mark.parametrize("template", ["", "{{ messages }}", "Think step by step.", "<tool_call></tool_call>"])
def test_other_templates_mark_no_thinking(template: str):
    assert reasoning_format(template) is None
