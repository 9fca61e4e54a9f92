"""What a cut vocabulary changes in a run: the time of the given model, and quality by byte of text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from lathe.artefact.report_format import VocabularyRows
from lathe.artefact.tokenizer import open_tokenizer
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.evaluate import quality
from lathe.compressor.latency.built_models import TimedModel
from lathe.compressor.latency.measure import LatencyBenchmark
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.model.reference import load_dense
from lathe.compressor.vocabulary import CutVocabulary


def whole_over_cut(benchmark: LatencyBenchmark, rows: int) -> float:
    """Returns the ratio of what a model takes with all its tokens to what it takes with fewer, unpruned.

    Args:
        benchmark: Times the model with fewer tokens.
        rows: The number of all tokens.
    """
    dense = benchmark.source.shape.dense_plan
    models = [TimedModel(dense), TimedModel(dense, rows)]
    return benchmark.time(models, benchmark.proof, "measure: the whole and the cut vocabulary")[0].ratio


def vocabulary_rows(vocabulary: CutVocabulary) -> VocabularyRows:
    """Returns what was kept of a vocabulary, as documents have it."""
    (rows, kept), (size, left) = vocabulary.rows, vocabulary.table_bytes
    return {
        "text": vocabulary.text,
        "rows": {"dense": rows, "subnet": kept},
        "table_bytes": {"dense": size, "subnet": left},
    }


@dataclass(frozen=True)
class ByteCount:
    """The bytes of text behind the predicted tokens of windows."""

    tokens: int
    bytes: int

    @classmethod
    def of(cls, tokenizer: Any, windows: torch.Tensor) -> ByteCount:
        """Counts; each window is predicted from its second token on."""
        texts = (_text(tokenizer, window[1:]) for window in windows)
        return cls(windows[:, 1:].numel(), sum(len(text.encode()) for text in texts))

    def loss(self, per_token: float) -> float:
        """Returns a loss in nats per byte."""
        return per_token * self.tokens / self.bytes


def whole_loss_per_byte(
    vocabulary: CutVocabulary, windows: torch.Tensor, on_disk: bool, advance: Callable[[], None]
) -> float:
    """Returns the loss of the model with all tokens in nats per byte, on the text of windows.

    Its own tokenizer splits the text, which may take fewer tokens than the smaller one's.

    Args:
        vocabulary: The vocabulary that was cut.
        windows: [n, T] tokens of the smaller vocabulary.
        on_disk: Whether layers are read one by one, because memory does not hold the model.
        advance: Is told of every window.
    """
    whole = vocabulary.whole
    model = LayeredModel.open(whole, ArrayStore(whole.path)) if on_disk else load_dense(whole.path)
    before, after = open_tokenizer(whole.path), open_tokenizer(vocabulary.source.path)
    nats, count = 0.0, 0
    for window in windows:
        ids = before(_text(after, window), add_special_tokens=False, verbose=False)["input_ids"]
        tokens = torch.tensor([ids])
        found = ByteCount.of(before, tokens)
        nats += quality(model, tokens).loss * found.tokens
        count += found.bytes
        advance()
    return nats / count


def _text(tokenizer: Any, ids: torch.Tensor) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
