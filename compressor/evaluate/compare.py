"""Scoring any checkpoint, dense or compressed, with the code that reports use.

Perplexity as papers publish it (GPTQ, arXiv 2210.17323, and those after it): the whole text, its documents
joined by an empty line, is tokenised once and split into windows that do not overlap, of the model's context
or 2,048 tokens where that is longer; perplexity is e to the mean loss over all predicted tokens. A last
window that is not full is left out.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lathe.artefact.checkpoint_config import refuse_adapters
from lathe.artefact.errors import UserError
from lathe.artefact.gguf_suffix import MODEL_FILE
from lathe.artefact.library_errors import reason
from lathe.artefact.modeling import register
from lathe.artefact.onnx.graph_format import GRAPH
from lathe.artefact.tokenizer import open_tokenizer
from lathe.compressor.calibration.chat import reading, token_ids
from lathe.compressor.calibration.documents import ChatText, ReadingLog
from lathe.compressor.calibration.sources import read_whole
from lathe.compressor.compute.device import CPU
from lathe.compressor.compute.progress import Progress
from lathe.compressor.evaluate.engine_model import EngineModel
from lathe.compressor.evaluate.llamacpp import LlamaCppModel
from lathe.compressor.evaluate.onnx import OnnxModel
from lathe.compressor.evaluate.perplexity import qualities
from lathe.compressor.evaluate.together import in_memory_together
from lathe.compressor.model.reference import load_dense
from lathe.compressor.model.weight_files import layout_note

_LONGEST = 2048
_log = logging.getLogger(__name__)
_warned: set[str] = set()
"""The warnings that were given; each is given once."""


def scores(
    models: Sequence[str],
    text: str,
    window: int = 0,
    most: int = 0,
    against: str | None = None,
    device: torch.device = CPU,
    progress: Progress | None = None,
    served: Mapping[str, Path] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields one row per model: {"model", "perplexity", "loss", "tokens", "window"}.

    If there is a dense model to compare with, the row has {"kl", "agreement", "against"}, too. Dense is then
    run once for all models that fit in memory together.

    Args:
        models: Checkpoint directories.
        text: A file, a folder or a data set.
        window: The tokens of a window; 0 takes the shortest context of all models, at most 2,048.
        most: The largest number of windows; 0 takes all.
        against: The dense model to compare with.
        device: The device that models run on.
        progress: Shows how far it is; is told of what was left out of the text, and how much is missing.
        served: None scores checkpoints; else artefacts are scored by the graph or GGUF file that they have,
            and models that were converted from a file by that, which is given here.

    Raises:
        UserError: a model or the text cannot be read, the text is shorter than a window, a window is longer
            than a model's context, or the models to compare split the text into different tokens.
    """
    progress = progress or Progress(quiet=True)
    everyone = [*models, against] if against else [*models]
    length = _window_length(everyone, window)
    windows = {model: _windows(model, length, most, text, progress) for model in everyone}
    if against:
        _check_same_tokens(windows, against, text)
    dense = load_model(against, device) if against else None
    for group in in_memory_together(models, against, device):
        loaded: list[Any] = [
            dense if m == against else load_model(m, device, served is not None, (served or {}).get(m))
            for m in group
        ]
        tokens, runs = windows[group[0]], len(group) + (against is not None and against not in group)
        names = ", ".join(Path(model).name for model in group)
        with progress.stage(f"evaluate {names}", runs * len(tokens)) as bar:
            found = qualities(loaded, tokens, bar.advance, dense)
        del loaded
        for model, result in zip(group, found, strict=True):
            row = {
                "model": model,
                "perplexity": result.perplexity,
                "loss": result.loss,
                "tokens": result.tokens,
                "window": length,
            }
            if against:
                row |= {"against": against, "kl": result.kl, "agreement": result.agreement}
            yield row


def _check_same_tokens(windows: dict[str, torch.Tensor], against: str, text: str) -> None:
    """Checks that all models split the text into the tokens of the dense one.

    Raises:
        UserError: One does not.
    """
    for model, tokens in windows.items():
        if not torch.equal(tokens, windows[against]):
            raise UserError(
                f"{model} and {against} split {text} into different tokens", "KL needs one tokenizer."
            )


def _window_length(models: Sequence[str], window: int) -> int:
    """Returns the length of windows: the one that was asked for, else the shortest context of all models.

    Raises:
        UserError: it is longer than a model's context.
    """
    contexts = {model: _context(model) for model in models}
    length = window or min(_LONGEST, *contexts.values())
    for model, context in contexts.items():
        if length > context:
            raise UserError(f"--window {length} is longer than the context of {model}, {context} tokens")
    return length


def load_model(model: str, device: torch.device = CPU, served: bool = False, file: Path | None = None) -> Any:
    """Loads a causal LM in float32.

    It runs by transformers on a device, or, if the artefact has no checkpoint or is asked for as it is
    served, on the processor: its graph by ONNX Runtime, its GGUF file by llama.cpp.

    Args:
        model: Its directory.
        device: The device that transformers runs on.
        served: Whether it is asked for as it is served, if it has a graph or a file.
        file: The GGUF file that the directory was converted from.

    Raises:
        UserError: it cannot be loaded.
    """
    engine = _on_engine(Path(model), file)
    if engine and (served or not any(Path(model).glob("*.safetensors"))):
        return engine
    from lathe.artefact.modeling import load
    from lathe.compressor.export.artefact import is_artefact

    register()
    try:
        loaded = load.load_model(model) if is_artefact(Path(model)) else load_dense(Path(model))
        return loaded.to(device)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"cannot load {model}: {reason(error)}") from None


def _on_engine(model: Path, file: Path | None) -> EngineModel | None:
    """Returns a model as it is served; None where it is a checkpoint alone."""
    if (model / GRAPH).is_file():
        return OnnxModel(model)
    file = file or model / MODEL_FILE
    return LlamaCppModel(file) if file.is_file() else None


def load_tokenizer(model: str) -> Any:
    """Loads a checkpoint's own tokenizer.

    Raises:
        UserError: it cannot be loaded.
    """
    register()
    return open_tokenizer(model)


def check_checkpoint(model: str) -> dict[str, Any]:
    """Reads the config.json of a checkpoint.

    Raises:
        UserError: it is not a checkpoint directory, or has an adapter.
    """
    refuse_adapters(Path(model))
    try:
        config = dict(json.loads((Path(model) / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise UserError(
            f"{model} is not a checkpoint directory", "It must hold config.json and safetensors."
        ) from None
    note = layout_note(Path(model), config.get("transformers_weights"))
    if note and note not in _warned:
        _warned.add(note)
        _log.warning(note)
    return config


def _context(model: str) -> int:
    return int(check_checkpoint(model).get("max_position_embeddings") or _LONGEST)


def _windows(model: str, length: int, most: int, text: str, progress: ReadingLog) -> torch.Tensor:
    tokenizer = load_tokenizer(model)
    documents = read_whole(text, reading(tokenizer, progress))
    whole = ChatText if any(isinstance(d, ChatText) for d in documents) else str
    ids = token_ids(tokenizer, whole("\n\n".join(documents)))
    if len(ids) < length:
        raise UserError(
            f"{text} is shorter than one window of {length} tokens", "Give more text or a smaller --window."
        )
    vocabulary = check_checkpoint(model).get("vocab_size") or math.inf
    if max(ids) >= vocabulary:
        raise UserError(f"the tokenizer of {model} gives {text} ids beyond the model's {vocabulary:,} tokens")
    count = len(ids) // length
    if count < most:
        progress.warn(f"{text} gives {model} {count} windows of {length} tokens; --windows asked for {most}")
    count = min(count, most or count)
    return torch.tensor(ids[: count * length], dtype=torch.int64).view(count, length)
