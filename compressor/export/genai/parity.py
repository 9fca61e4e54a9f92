"""Whether ONNX Runtime computes a graph with a mask as it computes Lathe's own.

Shapes: V vocabulary, K KV heads, H head dim.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lathe.artefact.errors import UserError
from lathe.artefact.onnx.runner import OnnxRunner, open_session

_LENGTHS = (12, 5)
_PLACES = _LENGTHS[0] + 1
_MOST = 2e-4


def check_masked(graph: Path, masked: Path) -> None:
    """Compares logits after two prompts of different lengths, and after a token behind each.

    Raises:
        UserError: they differ by more than 2e-4 of their standard deviation.
    """
    runner = OnnxRunner(graph, max_batch=len(_LENGTHS), max_length=_PLACES)
    prompts = [(7 * np.arange(length) + length) % runner.vocab_size for length in _LENGTHS]
    expected = [np.concatenate([runner.prefill(row, prompt) for row, prompt in enumerate(prompts)])]
    behind = expected[0].argmax(1)
    expected.append(runner.decode(behind))
    del runner
    found = _run(masked, prompts, behind)
    difference = float(np.abs(found - np.stack(expected)).max() / np.std(expected))
    if not difference <= _MOST:
        raise UserError(
            f"{masked} and {graph} disagree by {difference:.2g} of the logits' spread",
            "Please report this, with the model.",
        )


def _run(graph: Path, prompts: list[np.ndarray], behind: np.ndarray) -> np.ndarray:
    """Returns the logits [2, rows, V] after prompts, padded on the right, and after a token behind each."""
    session, _weights = open_session(graph, None)
    names = [output.name for output in session.get_outputs()]
    tokens, mask = np.zeros((2, len(prompts), _LENGTHS[0]), np.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)], mask[row, : len(prompt)] = prompt, 1
    caches = {
        value.name: np.zeros(
            (len(prompts), value.shape[1], _PLACES, value.shape[3]),
            np.int8 if value.type == "tensor(int8)" else np.float32,
        )
        for value in session.get_inputs()
        if value.name.startswith("past_key_values.")
    }
    logits = []
    for now, seen in (
        (tokens, mask),
        (behind[:, None], np.concatenate([mask, np.ones_like(mask[:, :1])], axis=1)),
    ):
        result = session.run(names, {"input_ids": now, "attention_mask": seen, **caches})
        logits.append(result[0][:, 0])
        caches = dict(zip(caches, result[1:], strict=True))
    return np.stack(logits)
