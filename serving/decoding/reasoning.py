"""Separates a model's reasoning from its answer, by the marks of its chat template."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

Kind = Literal["reasoning", "content"]
Piece = tuple[Kind, str]


class Splitter(ABC):
    """Separates reasoning from content in one answer, as its text arrives.

    Attributes:
        undecided: what came so far may still be either.
        thought: the answer has reasoning.
        answering: the reasoning is over, or there was none.
    """

    undecided: bool
    thought: bool
    answering: bool

    @abstractmethod
    def push(self, text: str) -> list[Piece]:
        """Returns what became certain with `text`; what may be the start of a mark is held back."""

    @abstractmethod
    def flush(self) -> list[Piece]:
        """Returns the rest, once nothing more will come."""


class ReasoningFormat(ABC):
    """How one kind of template marks reasoning; `marks` are the tokens that have to be seen to read it."""

    marks: tuple[str, ...]

    @abstractmethod
    def recognises(self, template: str) -> bool:
        """Returns whether the chat template is of this kind."""

    @abstractmethod
    def begin(self, prompt_end: str) -> Splitter:
        """Returns the splitter of an answer to a prompt that ends like this, special tokens shown."""

    @abstractmethod
    def resume(self, said: str) -> Splitter:
        """Returns the splitter of the rest of an answer that begins with `said`."""


@dataclass(frozen=True)
class Marked(ReasoningFormat):
    """Reasoning between two marks, before the answer. The prompt may have opened or closed it already."""

    opening: str
    closing: str

    @property
    def marks(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.opening, self.closing)

    def recognises(self, template: str) -> bool:
        return self.closing in template

    def begin(self, prompt_end: str) -> MarkedSplitter:
        end = prompt_end.rstrip()
        return MarkedSplitter(self, end.endswith(self.opening), end.endswith(self.closing))

    def resume(self, said: str) -> MarkedSplitter:
        if not said.strip():
            return MarkedSplitter(self)
        thinks = said.rfind(self.opening) > said.rfind(self.closing)
        return MarkedSplitter(self, opened=thinks, closed=not thinks)


class MarkedSplitter(Splitter):
    """Splits at the two marks; blank text around the reasoning belongs to neither part."""

    def __init__(self, marks: Marked, opened: bool = False, closed: bool = False) -> None:
        self._marks = marks
        self._held = ""
        self._blank = False
        self.undecided = not closed
        self.thought = opened
        self.answering = closed

    def push(self, text: str) -> list[Piece]:
        self._held += text
        pieces: list[Piece] = []
        if self.undecided:
            self._decide()
        if not self.undecided and not self.answering:
            pieces += self._think()
        if self.answering:
            pieces += self._answer()
        return pieces

    def flush(self) -> list[Piece]:
        rest, self._held = self._held, ""
        if self._blank:
            rest = rest.lstrip()
        thinking = self.thought and not self.answering
        self.undecided, self.answering = False, not thinking
        rest = rest.rstrip() if thinking else rest
        return [("reasoning" if thinking else "content", rest)] if rest else []

    def _decide(self) -> None:
        """Decides between reasoning and answer.

        Models may write the opening mark although the prompt ends with it.
        """
        begun = self._held.lstrip()
        if begun.startswith(self._marks.opening):
            self.undecided, self.thought = False, True
            self._held, self._blank = begun[len(self._marks.opening) :], True
        elif not self._marks.opening.startswith(begun):
            self.undecided = False
            self.answering, self._blank = not self.thought, self.thought

    def _think(self) -> list[Piece]:
        text = self._held.lstrip() if self._blank else self._held
        before, closing, after = text.partition(self._marks.closing)
        if closing:
            thought = before.rstrip()
            self._held, self.answering, self._blank = after, True, True
        else:
            thought = text[: len(text) - _begun(text, self._marks.closing)].rstrip()
            self._held = text[len(thought) :]
            self._blank = self._blank and not thought
        return [("reasoning", thought)] if thought else []

    def _answer(self) -> list[Piece]:
        text = self._held.lstrip() if self._blank else self._held
        self._held = ""
        if not text:
            return []
        self._blank = False
        return [("content", text)]


ENDS = ("<|end|>", "<|start|>", "<|channel|>")


class Harmony(ReasoningFormat):
    """The format of gpt-oss: messages in channels. Those in `final` are the answer, the others reasoning."""

    marks = (*ENDS, "<|message|>", "<|constrain|>")

    def recognises(self, template: str) -> bool:
        return "<|channel|>analysis" in template

    def begin(self, prompt_end: str) -> HarmonySplitter:
        return HarmonySplitter(prompt_end.rpartition("<|start|>")[2])

    def resume(self, said: str) -> HarmonySplitter:  # noqa: ARG002
        """Resumes in the final channel, where templates write earlier answers."""
        return HarmonySplitter("assistant<|channel|>final<|message|>")


class HarmonySplitter(Splitter):
    """Splits messages: a header between `<|channel|>` and `<|message|>`, then text up to the next mark.

    A header that is not complete at the end is dropped.
    """

    def __init__(self, header: str = "") -> None:
        """Starts behind `header`, the part of the first message's header that the prompt has."""
        self._header = header
        self._held = ""
        self._kind: Kind | None = None
        self._separator = ""
        self.undecided = True
        self.thought = self.answering = False
        self.push(header)

    def push(self, text: str) -> list[Piece]:
        self._held += text
        pieces: list[Piece] = []
        while True:
            if self._kind is None and not self._open():
                return pieces
            spoken, ended = self._spoken()
            if spoken:
                pieces.append((self._kind or "content", self._separator + spoken))
                self._separator = ""
            if not ended:
                return pieces
            self._separator = "\n" if self._kind == "reasoning" else ""
            self._kind = None

    def flush(self) -> list[Piece]:
        rest, self._held = self._held.removeprefix(self._header if self.undecided else ""), ""
        if self._kind is None and (not self.undecided or rest.startswith(ENDS)):
            self.undecided = False
            return []
        kind: Kind = self._kind or "content"
        self.undecided, self.answering = False, self.answering or kind == "content"
        return [(kind, rest)] if rest else []

    def _open(self) -> bool:
        """Reads a header; returns whether it is complete."""
        header, mark, rest = self._held.partition("<|message|>")
        if not mark:
            return False
        _, named, channel = header.rpartition("<|channel|>")
        self._kind = "reasoning" if named and not channel.strip().startswith("final") else "content"
        self._held, self.undecided = rest, False
        if self._kind == "content":
            self.answering, self._separator = True, ""
        else:
            self.thought = True
        return True

    def _spoken(self) -> tuple[str, bool]:
        """Returns the message's text as far as it is certain, and whether it ended."""
        text = self._held
        found = [at for end in ENDS if (at := text.find(end)) >= 0]
        if found:
            self._held = text[min(found) :]
            return text[: min(found)], True
        certain = len(text) - max(_begun(text, end) for end in ENDS)
        self._held = text[certain:]
        return text[:certain], False


FORMATS: tuple[ReasoningFormat, ...] = (
    Harmony(),
    Marked("<think>", "</think>"),
    Marked("[THINK]", "[/THINK]"),
    Marked("<seed:think>", "</seed:think>"),
    Marked("<|START_THINKING|>", "<|END_THINKING|>"),
)


def reasoning_format(template: str) -> ReasoningFormat | None:
    """Returns how the chat template marks reasoning, or None if it does not."""
    return next((kind for kind in FORMATS if kind.recognises(template)), None)


def _begun(text: str, mark: str) -> int:
    """Returns the length of the longest end of `text` that is a proper prefix of `mark`."""
    return max((n for n in range(1, len(mark)) if text.endswith(mark[:n])), default=0)
