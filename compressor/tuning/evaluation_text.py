"""The held-out text that all trials of a study are judged by."""

from __future__ import annotations

from pathlib import Path

from lathe.artefact.atomic_files import write_bytes
from lathe.compressor.calibration.selfgen import write_samples
from lathe.compressor.calibration.tokens import load_tokenizer, window_length
from lathe.compressor.compute.progress import Progress
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.pipeline.option_values import WINDOW

FILE = "evaluation.txt"
_WINDOWS = 40
"""More than a run reads: text that is tokenized again may have fewer tokens."""
_SEED = 2**62
"""Far from the seeds of calibration text."""


def write_evaluation_text(source: Checkpoint, directory: Path, progress: Progress) -> Path:
    """Returns a file of text that the model writes itself; one that is there already is kept.

    The held-out windows of the calibration text will not do: which they are depends on the number of
    calibration tokens, and dampings are chosen on them.

    Raises:
        UserError: the model has no tokenizer, or the file cannot be written.
    """
    path = directory / FILE
    if not path.exists():
        tokenizer, length = load_tokenizer(source), window_length(source, WINDOW)
        tokens = write_samples(source, windows=_WINDOWS, length=length, seed=_SEED, progress=progress)
        texts = [tokenizer.decode(row.tolist(), skip_special_tokens=True) for row in tokens]
        write_bytes(path, "\n\n".join(texts).replace("\0", "").encode())
    return path
