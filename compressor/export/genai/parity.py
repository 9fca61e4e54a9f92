"""Whether ONNX Runtime computes a graph with a mask as it computes Lathe's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lathe.artefact.errors import UserError
from lathe.artefact.onnx.kv_cache import TYPES
from lathe.artefact.onnx.runner import OnnxRunner, open_session

_LENGTH = 12
_MOST = 2e-4


def check_masked(graph: Path, masked: Path) -> None:
    """Compares logits after a prompt, and after a token behind it.

    Both graphs read them in the same pieces: products of rounded weights round what they read, and on other
    pieces the same graph differs from itself by a third of the logits' spread.

    Raises:
        UserError: they differ by more than 2e-4 of their standard deviation.
    """
    runner = OnnxRunner(graph, max_batch=1, max_length=_LENGTH + 1)
    prompt = (7 * np.arange(_LENGTH) + _LENGTH) % runner.vocab_size
    after = runner.prefill(0, prompt)
    token = after.argmax(1)
    expected = np.concatenate([after, runner.decode(token)])
    del runner
    found = _run(masked, [prompt, token])
    difference = float(np.abs(found - expected).max() / expected.std())
    if not difference <= _MOST:
        raise UserError(
            f"{masked} and {graph} disagree by {difference:.2g} of the logits' spread",
            "Please report this, with the model.",
        )


def _run(graph: Path, pieces: list[np.ndarray]) -> np.ndarray:
    """Returns the logits [pieces, V] after each piece of a text."""
    session, _weights = open_session(graph, None)
    names = [output.name for output in session.get_outputs()]
    caches = {
        value.name: np.zeros((1, value.shape[1], _LENGTH + 1, value.shape[3]), TYPES[value.type])
        for value in session.get_inputs()
        if value.name.startswith("past_key_values.")
    }
    logits, length = [], 0
    for piece in pieces:
        length += len(piece)
        mask = np.ones((1, length), np.int64)
        result = session.run(names, {"input_ids": piece[None], "attention_mask": mask, **caches})
        logits.append(result[0][:, 0])
        caches = dict(zip(caches, result[1:], strict=True))
    return np.concatenate(logits)
