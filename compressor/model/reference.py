"""Transformers' own reading of a dense checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lathe.artefact.errors import UserError
from lathe.artefact.transformers_config import quietly, reference_config


def load_dense(path: Path) -> Any:
    """A dense checkpoint, ready to run in float32.

    Raises:
        UserError: transformers would make up weights that it does not find.
    """
    model, info = load_reference(path, reference_config(path))
    check_found(path, info)
    return model


def check_found(path: Path, info: dict[str, Any]) -> None:
    """Refuses a model in which transformers has made up weights, from what it says of its loading.

    Raises:
        UserError: names the first of them.
    """
    if info["missing_keys"]:
        raise UserError(
            f"transformers does not find `{min(info['missing_keys'])}` in {path}, and makes up random values",
            "Give the tensors the names that transformers saves them under.",
        )


def load_reference(path: str | Path | None, config: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
    """Returns a causal LM in float32, ready to run, and transformers' account of its loading.

    The account has `missing_keys` and `unexpected_keys`. Scores with a soft cap are computed by the code that
    knows it: older versions use a faster one that does not.

    Args:
        path: the checkpoint; None where options have a `state_dict`.
        config: of the model, as transformers has it.
        **options: of `from_pretrained`.
    """
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if getattr(config, "attn_logit_softcapping", None):
        options["attn_implementation"] = "eager"
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    with quietly():
        model, info = kind.from_pretrained(
            path, config=config, dtype=torch.float32, output_loading_info=True, **options
        )
    return model.eval(), info
