"""Checks that our layer-by-layer reading of a dense model computes what transformers does.

Both are given the same tokens and, layer by layer, the same hidden states, so that rounding errors do not add
up and the first place that differs is named. Transformers loads the whole model if memory holds it; otherwise
one layer at a time, with the rows of the embedding and the head that the tokens use.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from lathe.artefact.errors import UserError
from lathe.artefact.transformers_config import reference_config
from lathe.compressor.agreement.side_by_side import Alongside
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.families import stored_name
from lathe.compressor.model.names import EMBEDDING, LM_HEAD, layer_prefix
from lathe.compressor.model.reference import check_found, load_reference

_TOKENS = 48
_WINDOW = 16
"""Tokens that a sliding window is shortened to in both readings, so that it is in use."""


@torch.inference_mode()
def check_agreement(source: Checkpoint, whole: bool) -> str:
    """Refuses a model that transformers reads otherwise; returns what was compared, in words.

    Args:
        source: the model.
        whole: whether transformers may load all of it at once.

    Raises:
        UserError: names the first place that differs, a tensor that transformers does not find, or why
            it cannot load the model.
    """
    config = reference_config(source.path)
    source, shortened = _shortened(source, config)
    ids = _ids(source)
    try:
        ours = Alongside(source, config, ids, whole)
        for first, (model, info) in _whole(source, config) if whole else _by_layer(source, config, ids):
            check_found(source.path, info)
            ours.along(model, first)
    except (UserError, MemoryError):
        raise
    except ImportError as error:
        return f"not compared with transformers, which needs {error.name} to load it"
    except Exception as error:
        if "alloc" in str(error):  # memory was full, which is told where it was limited
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{source.path} cannot be run, by transformers or by Lathe: {reason}") from error
    how = "" if whole else ", loaded layer by layer"
    note = f", with sliding windows of {_WINDOW} tokens" if shortened else ""
    return (
        f"computes what transformers does: embedding, {source.shape.num_layers} layers and logits{how}, of "
        f"{len(ids)} tokens{note} (largest difference {ours.largest:.0e} of the spread)"
    )


def _ids(source: Checkpoint) -> torch.Tensor:
    """Tokens from all over the vocabulary, each once."""
    count, vocabulary = min(_TOKENS, source.positions), source.shape.vocab_size
    return torch.linspace(0, vocabulary - 1, min(count, vocabulary)).long().unique()


def _shortened(source: Checkpoint, config: Any) -> tuple[Checkpoint, bool]:
    """Both readings with sliding windows that so few tokens fill; those that no context fills stay."""
    window, limit = getattr(config, "sliding_window", None), source.positions
    if not window or not _WINDOW < window < limit:
        return source, False
    config.sliding_window = _WINDOW
    windows = [min(size, _WINDOW) for size in source.config.get("windows") or ()]
    return replace(source, config=source.config | {"windows": windows or None}), True


def _whole(source: Checkpoint, config: Any) -> Iterator[tuple[int, tuple[Any, dict[str, Any]]]]:
    yield 0, load_reference(source.path, config)


def _by_layer(
    source: Checkpoint, config: Any, ids: torch.Tensor
) -> Iterator[tuple[int, tuple[Any, dict[str, Any]]]]:
    """Models of one layer each. ids: the only tokens that they know."""
    family, layers = source.family, range(source.shape.num_layers)
    prefixes = [stored_name(family, layer_prefix(i)) for i in layers]
    tables = [stored_name(family, f"{name}.weight") for name in (LM_HEAD, EMBEDDING)]
    others = {
        name: entry.rows(ids) if name in tables else entry.read()
        for name, entry in source.index.items()
        if not name.startswith(tuple(prefixes))
    }
    for index, prefix in enumerate(prefixes):
        one = copy.deepcopy(config)
        one.num_hidden_layers, one.vocab_size = 1, len(ids)
        one.pad_token_id = one.bos_token_id = one.eos_token_id = None
        for name, value in vars(config).items():
            if isinstance(value, list) and len(value) == len(layers):
                setattr(one, name, value[index : index + 1])
        own = {
            prefixes[0] + name.removeprefix(prefix): entry.read()
            for name, entry in source.index.items()
            if name.startswith(prefix)
        }
        yield index, load_reference(None, one, state_dict=own | others)
