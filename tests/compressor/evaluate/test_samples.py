"""What a report shows of a model's own writing is what it writes without a cache, too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lathe.compressor.evaluate.samples import TOKENS, Prompt, continuations
from lathe.compressor.model.reference import load_dense
from support.family_checks import written
from support.tiny_families import FIRST, family_checkpoint
from support.tiny_llama import tokens


class Spelled:
    """Writes tokens as their numbers."""

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return " ".join(map(str, ids))


@torch.no_grad()
def uncached(model, prompt: list[int]) -> str:
    ids = torch.tensor([prompt])
    for _ in range(TOKENS):
        ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    return " ".join(map(str, ids[0, len(prompt) :].tolist()))


@pytest.mark.parametrize("case", [FIRST["llama"], "mistral, window", FIRST["opt"]])
def test_c16_samples_are_those_of_whole_prompts(tmp_path: Path, case: str) -> None:
    source = family_checkpoint(tmp_path / "dense", case)
    prompt = Prompt("", tokens(1, 9)[0].tolist())
    for model in (load_dense(source.path), written(tmp_path / "subnet", source, "mixed")):
        assert continuations(model, Spelled(), [prompt], ()) == [uncached(model, prompt.tokens)]
