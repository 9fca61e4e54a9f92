"""Random models of a family with a tokenizer and a text, for whole commands."""

from __future__ import annotations

from pathlib import Path

from support.compress_command import Tiny
from support.tiny_families import FIRST, STORED, TIED, random_model
from support.tiny_server import save_tokenizer


def tiny(directory: Path, family: str, tied: str, stored: str) -> Tiny:
    model, text = directory / "model", directory / "text.txt"
    settings = {"vocab_size": 320, "bos_token_id": 0, "eos_token_id": 1, "tie_word_embeddings": TIED[tied]}
    random_model(FIRST[family], **settings).save_pretrained(model, max_shard_size=STORED[stored])
    save_tokenizer(model)
    text.write_text("".join(f"The {i}th fox jumps over {i * 7 % 100} lazy dogs. " for i in range(600)))
    return Tiny(model, text)
