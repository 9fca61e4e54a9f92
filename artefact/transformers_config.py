"""Transformers' own reading of a checkpoint's configuration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lathe.artefact.checkpoint_config import read_document
from lathe.artefact.errors import UserError
from lathe.artefact.library_errors import reason


def reference_config(path: str | Path) -> Any:
    """Returns a checkpoint's configuration as `AutoConfig.from_pretrained` gives it.

    Data types are those of `read_document`; packed experts are to be loaded as floats.

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
