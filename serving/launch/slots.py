"""What the engines that compute in slots make of the options."""

from __future__ import annotations

from lathe.artefact.errors import UserError
from lathe.serving.decoding.tokenizer import Tokenizer
from lathe.serving.options import SLOTS, ServeOptions
from lathe.serving.served_model import ServedModel


def slot_sizes(artefact: ServedModel, options: ServeOptions) -> tuple[int, int]:
    """Returns how many slots there are, and the tokens of each.

    Raises:
        UserError: more tokens are asked for than the model has positions.
    """
    max_length = options.max_length or artefact.context
    if max_length > artefact.context:
        raise UserError(
            f"--max-length {max_length} is more than the model's {artefact.context} positions",
            "Give a smaller one.",
        )
    return options.max_batch or SLOTS, max_length


def end_tokens(artefact: ServedModel, tokenizer: Tokenizer) -> frozenset[int]:
    """Returns the tokens that end an answer."""
    return artefact.eos | ({tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set())


def check_no_flash_attention(engine: str, options: ServeOptions) -> None:
    """Checks that an engine which has no such choice is not asked for flash attention.

    Raises:
        UserError: it is.
    """
    if options.flash_attention:
        raise UserError(
            f"the {engine} engine does not take --flash-attention", "It is for --engine llamacpp."
        )
