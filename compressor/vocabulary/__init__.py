"""Cuts a model's vocabulary to what a text uses: tokenizer, embedding, head and special tokens."""

from lathe.compressor.vocabulary.cut import CutVocabulary, cut_vocabulary

__all__ = ["CutVocabulary", "cut_vocabulary"]
