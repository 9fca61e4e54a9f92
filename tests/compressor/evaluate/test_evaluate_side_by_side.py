"""Models are scored beside dense: it runs once for all of them, and a graph takes few calls per window."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from lathe.artefact.onnx.runner import OnnxRunner
from lathe.compressor.evaluate import compare
from lathe.compressor.evaluate.perplexity import qualities
from lathe.compressor.evaluate.together import in_memory_together
from lathe.compressor.model.decoder import Output
from support.compress_command import Tiny, lathe

VOCABULARY = 50


class Bigrams:
    """A causal LM whose logits follow from the last token alone; it counts the windows that it is given."""

    def __init__(self, seed: int) -> None:
        self.table = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed))
        self.windows = 0

    def __call__(self, input_ids: torch.Tensor, use_cache: bool) -> Output:
        self.windows += len(input_ids)
        return Output(self.table[input_ids])


@pytest.fixture(scope="module")
def graphs(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for name, options in (("float32", ()), ("int8", ("--quantize", "int8"))):
        found[name] = tmp_path_factory.mktemp("graphs") / name
        assert lathe("export", str(tiny.model), "-o", str(found[name]), *options).exit_code == 0
    return found


def test_dense_is_run_once_however_many_models_are_compared_with_it() -> None:
    dense, others = Bigrams(0), [Bigrams(1), Bigrams(2), Bigrams(3)]
    windows = torch.randint(VOCABULARY, (7, 33), generator=torch.Generator().manual_seed(4))
    steps: list[int] = []
    found = qualities([*others, dense], windows, steps.append, dense)
    assert [model.windows for model in (dense, *others)] == [7] * 4
    assert sum(steps) == 4 * 7
    theirs = dense.table[windows].log_softmax(-1)[:, :-1]
    for model, quality in zip((*others, dense), found, strict=True):
        mine = model.table[windows].log_softmax(-1)[:, :-1]
        loss = torch.nn.functional.nll_loss(mine.flatten(0, 1), windows[:, 1:].flatten())
        kl = torch.nn.functional.kl_div(mine, theirs, log_target=True, reduction="none").sum(-1).mean()
        assert (quality.loss, quality.kl) == pytest.approx((float(loss), float(kl)), rel=1e-5)
        assert quality.agreement == pytest.approx(
            float((mine.argmax(-1) == theirs.argmax(-1)).float().mean())
        )
    assert (found[-1].kl, found[-1].agreement) == (0, 1)


def test_a_graph_has_the_loss_of_its_checkpoint_in_few_calls(
    tiny: Tiny, graphs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[int] = Counter()
    prefill = OnnxRunner.prefill

    def counted(self: OnnxRunner, slot: int, tokens: np.ndarray, logits="last") -> np.ndarray:
        calls[len(tokens)] += 1
        return prefill(self, slot, tokens, logits)

    monkeypatch.setattr(OnnxRunner, "prefill", counted)
    graph, dense = compare.scores(
        [str(graphs["float32"]), str(tiny.model)], str(tiny.text), 300, 2, against=str(tiny.model)
    )
    assert calls == {256: 2, 44: 2}
    assert graph["loss"] == pytest.approx(dense["loss"], rel=1e-5)
    assert graph["kl"] == pytest.approx(0, abs=1e-6)
    assert graph["agreement"] > 0.99


def test_chunks_do_not_change_what_a_quantized_graph_scores(tiny: Tiny, graphs: dict[str, Path]) -> None:
    ids = torch.tensor(AutoTokenizer.from_pretrained(tiny.model)(tiny.text.read_text())["input_ids"])
    windows = ids[:600].view(2, 300)
    runner = OnnxRunner(graphs["int8"] / "onnx/model.onnx", max_batch=1, max_length=300)
    losses = []
    for tokens in windows:
        runner.reset(0)
        logits = torch.from_numpy(runner.prefill(0, tokens.numpy(), "all"))
        losses.append(torch.nn.functional.cross_entropy(logits[:-1], tokens[1:]))
    (row,) = compare.scores([str(graphs["int8"])], str(tiny.text), 300, 2)
    assert row["loss"] == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)
    assert row["perplexity"] == pytest.approx(math.exp(row["loss"]))


def test_models_are_loaded_together_where_memory_holds_them(
    tiny: Tiny, graphs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    models, dense = [str(graphs["float32"]), str(tiny.model), str(graphs["int8"])], str(tiny.model)
    assert in_memory_together(models, None) == [[model] for model in models]
    assert in_memory_together(models, dense) == [models]

    class Full:
        available = 0

    monkeypatch.setattr("psutil.virtual_memory", Full)
    assert in_memory_together(models, dense) == [models[:2], models[2:]]
