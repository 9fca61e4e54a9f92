"""A GGUF model as `lathe serve --engine llamacpp` opens it: no weights are read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lathe.artefact.errors import UserError
from lathe.artefact.manifest import write_manifest
from lathe.serving.decoding.tokenizer import Tokenizer
from lathe.serving.launch.engines.llamacpp import check_options
from lathe.serving.launch.registry import serve_with
from lathe.serving.options import ServeOptions
from lathe.serving.served_gguf import gguf_of, open_served_gguf
from lathe.serving.served_model import open_served_model
from support.tiny_gguf import byte_level_tokens, write_gguf
from support.tiny_llama import dense_model
from support.tiny_server import save_tokenizer

TEXT = "The quick brown 東京 dog</s>"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("gguf")
    save_tokenizer(directory)
    model = dense_model(vocab_size=320, max_position_embeddings=512)
    return write_gguf(directory / "tiny.gguf", model, tokens=byte_level_tokens(directory))


def test_a_file_is_described_and_tokenized(file: Path) -> None:
    served = open_served_gguf(file)
    assert gguf_of(file) == file
    assert (served.name, served.context, served.vocab_size, served.eos) == ("tiny", 512, 320, {1})
    assert (served.kv_values, served.head_dim, served.compressed) == (4 * 2 * 4 * 16, 16, False)
    assert served.has_chat_template
    ours, original = Tokenizer(served.path), Tokenizer(file.parent)
    chat = [{"role": "user", "content": TEXT}]
    np.testing.assert_array_equal(ours.encode(TEXT), original.encode(TEXT))
    np.testing.assert_array_equal(ours.encode_chat(chat), original.encode_chat(chat))


def test_uneven_widths_are_a_compressed_models(file: Path, tmp_path: Path) -> None:
    model = dense_model(vocab_size=320)
    counts: dict[str, Any] = {"llama.attention.head_count_kv": [4, 2, 4, 4]}
    tokens = byte_level_tokens(file.parent)
    served = open_served_gguf(write_gguf(tmp_path / "uneven.gguf", model, tokens=tokens, metadata=counts))
    assert served.compressed
    assert served.dense_weights is None
    assert served.kv_values == 2 * 14 * 16


def test_an_artefact_needs_the_export_unharmed(file: Path, artefact_dir: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(artefact_dir, tmp_path / "out"))
    with pytest.raises(UserError, match=r"holds no GGUF export \(model.gguf\). Make one: `lathe export"):
        open_served_gguf(out)
    shutil.copy(file, out / "model.gguf")
    with pytest.raises(UserError, match="model.gguf is not listed in manifest.json"):
        open_served_gguf(out)
    write_manifest(out)
    assert gguf_of(out) == out / "model.gguf"
    assert open_served_gguf(out).path == out
    with (out / "model.gguf").open("r+b") as handle:
        handle.seek(-1, 2)
        handle.write(b"!")
    with pytest.raises(UserError, match="model.gguf has not the hash"):
        open_served_gguf(out)
    assert open_served_model(out).path == out, "the graph is served without reading it"


def test_files_that_cannot_be_served_are_refused(file: Path, tmp_path: Path) -> None:
    model = dense_model()
    plain = write_gguf(tmp_path / "p.gguf", model, tokens={"tokenizer.ggml.model": "no_vocab"})
    with pytest.raises(UserError, match="tokenizer"):
        open_served_gguf(plain)
    (tmp_path / "cut.gguf").write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="incomplete or damaged"):
        open_served_gguf(tmp_path / "cut.gguf")
    with pytest.raises(UserError, match="is not a directory"):
        open_served_gguf(tmp_path / "absent")


@pytest.mark.parametrize(("option", "value"), [("device", "cpu"), ("prefix_cache", 128)])
def test_options_of_other_engines_are_refused(option: str, value: Any) -> None:
    name = option.replace("_", "-")
    with pytest.raises(UserError, match=f"the llamacpp engine does not take --{name}"):
        check_options(ServeOptions(out=Path("out"), **{option: value}))


@pytest.mark.parametrize("engine", ["onnx", "vllm"])
def test_flash_attention_is_refused_by_others(engine: str, artefact_dir: Path) -> None:
    with pytest.raises(UserError, match=f"the {engine} engine does not take --flash-attention"):
        serve_with(engine, artefact_dir, ServeOptions(out=artefact_dir, flash_attention=True))
