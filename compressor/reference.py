"""Transformers' own reading of a dense checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compressor.config_file import read_document
from compressor.errors import UserError
from compressor.outside import reason


def reference_config(path: str | Path) -> Any:
    """Its configuration, as `AutoConfig.from_pretrained` gives it, with the data types of `read_document`;
    packed experts are to be loaded as floats.

    Raises:
        UserError: config.json cannot be read, or transformers refuses it.
    """
    document = read_document(Path(path))
    packed = document.get("quantization_config")
    if isinstance(packed, dict) and packed.get("quant_method") == "mxfp4":
        document["quantization_config"] = packed | {"dequantize": True}
    try:
        with quietly():
            return _config(path, document)
    except Exception as error:
        raise UserError(
            f"transformers refuses the config.json of {path}: {reason(error)}", "Mend it there."
        ) from None


def _config(path: str | Path, document: dict[str, Any]) -> Any:
    from transformers import CONFIG_MAPPING, AutoConfig

    if document.get("model_type") not in CONFIG_MAPPING:
        return AutoConfig.from_pretrained(path)
    return CONFIG_MAPPING[document["model_type"]].from_dict(document, name_or_path=str(path))


def load_dense(path: Path) -> Any:
    """A dense checkpoint, ready to run in float32.

    Raises:
        UserError: transformers would make up weights that it does not find.
    """
    model, info = load_reference(path, reference_config(path))
    check_found(path, info)
    return model


def check_found(path: Path, info: dict[str, Any]) -> None:
    """Refuse a model in which transformers has made up weights, from what it says of its loading.

    Raises:
        UserError: names the first of them.
    """
    if info["missing_keys"]:
        raise UserError(
            f"transformers does not find `{min(info['missing_keys'])}` in {path}, and makes up random values",
            "Give the tensors the names that transformers saves them under.",
        )


def load_reference(path: str | Path | None, config: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
    """A causal LM in float32, ready to run, and what transformers says of its loading: `missing_keys`,
    `unexpected_keys`. Scores that have a soft cap are worked out by the code that knows it: older versions
    take a faster one that does not.

    Args:
        path: the checkpoint; None where options have a `state_dict`.
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


@contextmanager
def quietly() -> Iterator[None]:
    """Our stages tell of progress, and we of what differs; transformers does not."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
