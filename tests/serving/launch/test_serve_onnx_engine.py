"""An uneven artefact behind the whole server: the served tokens are those of the torch reference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lathe.artefact.manifest import write_manifest
from lathe.compressor.export.onnx import export_onnx
from support.tiny_llama import PLANS, VOCAB, checkpoint, pruned, reference
from support.tiny_server import running, save_tokenizer


@pytest.mark.parametrize("name", ["mixed", "groups"])
def test_an_uneven_model_is_served(tmp_path: Path, name: str):
    source, out = checkpoint(tmp_path / "dense"), tmp_path / "out"
    out.mkdir()
    export_onnx(out, pruned(source, PLANS[name]))
    (out / "config.json").write_text((source.path / "config.json").read_text())
    (out / "plan.json").write_text(json.dumps(PLANS[name].to_json()))
    save_tokenizer(out)
    write_manifest(out)
    prompt = [5, 17, 99, 4]
    expected = reference(source, PLANS[name]).generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, 4),
        max_new_tokens=20,
        do_sample=False,
        pad_token_id=0,
    )[0, 4:]
    with running(out, max_length=128) as server:
        assert server.service.artefact.compressed
        assert server.backend.vocab_size == VOCAB
        answer = server.complete(prompt, max_tokens=20, temperature=0, logprobs=0)["choices"][0]
        label = server.service.tokenizer.display_bytes
        shown = [server_label(label(token)) for token in expected.tolist()]
        assert answer["logprobs"]["tokens"] == shown


def server_label(piece: bytes) -> str:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
