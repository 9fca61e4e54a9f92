"""How texts are split before byte-level BPE, by the names that llama.cpp gives to the ways of doing so."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Regex
from tokenizers.normalizers import NFC, Normalizer
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split

_GPT2 = ""
"""The pattern that ByteLevel has itself."""
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Splitting:
    """What happens to a text before BPE.

    Attributes:
        pattern: What is split by.
        digits: Whether each digit is by itself.
        composed: Whether characters are composed first (NFC).
        whole_words: Whether a word that is a token is taken as it is, without merges.
        begins: Whether a text begins with the token for it, where the file does not say.
    """

    pattern: str
    digits: bool = False
    composed: bool = False
    whole_words: bool = False
    begins: bool = False

    def normalizer(self) -> Normalizer | None:
        """Returns what characters go through."""
        return NFC() if self.composed else None

    def pre_tokenizer(self) -> PreTokenizer:
        """Returns what splits."""
        digits = [Digits(individual_digits=True)] if self.digits else []
        split = [Split(Regex(self.pattern), "isolated")] if self.pattern else []
        return Sequence([*digits, *split, ByteLevel(add_prefix_space=False, use_regex=not self.pattern)])


_LLAMA3_SPLITTING = Splitting(_LLAMA3, whole_words=True, begins=True)
_DIGITS = Splitting(_GPT2, digits=True)
SPLITTINGS = {
    "gpt-2": Splitting(_GPT2),
    "olmo": Splitting(_GPT2),
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "llama-bpe": _LLAMA3_SPLITTING,
    "llama-v3": _LLAMA3_SPLITTING,
    "llama3": _LLAMA3_SPLITTING,
    "falcon3": _LLAMA3_SPLITTING,
    "dbrx": Splitting(_LLAMA3),
    "smaug-bpe": Splitting(_LLAMA3),
    "qwen2": Splitting(_QWEN2, composed=True),
    "deepseek-r1-qwen": Splitting(_QWEN2, composed=True),
    "tekken": Splitting(_TEKKEN, whole_words=True),
    "gpt-4o": Splitting(_GPT4O),
}
"""By `tokenizer.ggml.pre`."""
