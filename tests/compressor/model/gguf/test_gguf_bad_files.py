"""GGUF files that cannot be read: one sentence that names the file, before weights are read."""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from lathe.artefact.errors import UserError
from lathe.artefact.gguf.file import open_gguf
from lathe.compressor.model.checkpoint import open_checkpoint
from lathe.compressor.model.gguf import checkpoint_directory, quantization
from support.tiny_families import random_model
from support.tiny_gguf import plain_tokens, write_gguf


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "whole.gguf", random_model("llama, plain"), Kind.Q8_0)


@pytest.fixture
def file(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(whole, tmp_path / "model.gguf"))


def refused(file: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        checkpoint_directory(file)
    assert "\n" not in str(caught.value)
    for word in (str(file), *words):
        assert word in str(caught.value)
    assert not [*file.parent.glob("cache/gguf/*/*")]


def header_end(file: Path) -> int:
    return min(tensor.offset for tensor in open_gguf(file).tensors.values())


def test_truncated_anywhere(whole: Path, tmp_path: Path) -> None:
    content, end = whole.read_bytes(), header_end(whole)
    short = tmp_path / "short.gguf"
    for length in (*range(0, 400), *range(400, end, 97), *range(end, len(content) - 32, 50_001)):
        short.write_bytes(content[:length])
        refused(short)


def test_damaged_headers_are_refused_or_read(whole: Path, tmp_path: Path) -> None:
    content, end, chance = whole.read_bytes(), header_end(whole), random.Random(0)
    damaged = tmp_path / "damaged.gguf"
    for _ in range(200):
        changed = bytearray(content)
        at = chance.randrange(end - 8)
        changed[at : at + 8] = chance.choice([b"\xff" * 8, bytes(8), chance.randbytes(8)])
        damaged.write_bytes(changed)
        with suppress(UserError):
            checkpoint_directory(damaged)


def patched(offset: int, value: bytes) -> Callable[[Path], None]:
    def patch(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[offset : offset + len(value)] = value
        file.write_bytes(content)

    return patch


BYTES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda file: file.write_bytes(b""), "is empty"),
    "not GGUF": (patched(0, b"GGML"), "is not a GGUF file"),
    "big-endian": (patched(4, struct.pack(">I", 3)), "big-endian"),
    "version 1": (patched(4, struct.pack("<I", 1)), "version 1"),
    "version 4": (patched(4, struct.pack("<I", 4)), "version 4"),
    "endless metadata": (patched(16, struct.pack("<Q", 2**60)), "more than it has room for"),
    "endless tensors": (patched(8, struct.pack("<Q", 2**60)), "more than it has room for"),
}


@pytest.mark.parametrize("kind", BYTES)
def test_bytes(file: Path, kind: str) -> None:
    damage, words = BYTES[kind]
    damage(file)
    refused(file, words)


METADATA: dict[str, tuple[dict[str, Any], str]] = {
    "no width": ({"llama.embedding_length": None}, "no metadata `llama.embedding_length`"),
    "width is a text": ({"llama.embedding_length": "64"}, "`llama.embedding_length` of"),
    "width is a fraction": ({"llama.embedding_length": 64.5}, "is not a whole number"),
    "width is true": ({"llama.embedding_length": True}, "is not a whole number"),
    "no layers": ({"llama.block_count": 0}, "impossible dimension"),
    "endless layers": ({"llama.block_count": 2**31}, "impossible dimension"),
    "more layers": ({"llama.block_count": 5}, "lacks the tensor for `model.layers.4."),
    "fewer layers": ({"llama.block_count": 3}, "has no place for"),
    "another width": ({"llama.feed_forward_length": 128}, "has the shape [96, 64]"),
    "uneven layers": ({"llama.feed_forward_length": [96, 96, 96, 64]}, "differs from layer to layer"),
    "odd heads": ({"llama.attention.head_count_kv": 3}, "8 query heads and 3 KV heads"),
    "no KV heads": ({"llama.attention.head_count_kv": 0}, "0 KV heads"),
    "partly rotated": ({"llama.rope.dimension_count": 8}, "rotates 8 of 16 dimensions"),
    "long rope": ({"llama.rope.scaling.type": "longrope"}, "rotary positions that Lathe does not read"),
    "experts": ({"llama.expert_count": 8}, "sets `llama.expert_count` to 8"),
    "unknown setting": ({"llama.logit_scale": 0.5}, "sets `llama.logit_scale` to 0.5"),
    "no tokens": ({"tokenizer.ggml.tokens": None}, "no metadata `tokenizer.ggml.tokens`"),
    "more tokens": ({"tokenizer.ggml.tokens": [str(i) for i in range(121)]}, "says 121 tokens"),
    "another vocabulary": ({"llama.vocab_size": 119}, "says 119 tokens"),
    "same tokens": ({"tokenizer.ggml.tokens": ["a"] * 120}, "tokens that occur twice"),
    "tokens are numbers": ({"tokenizer.ggml.tokens": [*range(120)]}, "values of other types"),
    "no merges": ({"tokenizer.ggml.merges": None}, "no metadata `tokenizer.ggml.merges`"),
    "odd merges": ({"tokenizer.ggml.merges": ["ab"]}, "merges that are not two tokens"),
    "unknown merges": ({"tokenizer.ggml.merges": ["x y"]}, "merges that its tokens do not make"),
    "fewer types": ({"tokenizer.ggml.token_type": [1]}, "1 token_type"),
    "odd tokenizer": ({"tokenizer.ggml.model": "bert"}, "a tokenizer of the kind `bert`"),
    "unknown splitting": ({"tokenizer.ggml.pre": "mystery"}, "`tokenizer.ggml.pre`: mystery"),
    "no splitting": ({"tokenizer.ggml.pre": None}, "`tokenizer.ggml.pre`: None"),
    "end outside": ({"tokenizer.ggml.eos_token_id": 120}, "not in its vocabulary"),
    "template is a number": ({"tokenizer.chat_template": 3}, "`tokenizer.chat_template` of"),
    "odd alignment": ({"general.alignment": 24}, "not a power of two"),
}


@pytest.mark.parametrize("kind", METADATA)
def test_metadata(tmp_path: Path, kind: str) -> None:
    changes, words = METADATA[kind]
    refused(write_gguf(tmp_path / "model.gguf", random_model("llama, plain"), metadata=changes), words)


@pytest.mark.parametrize("name", ["token_embd.weight", "blk.2.attn_k.weight", "output_norm.weight"])
def test_missing_tensors(tmp_path: Path, name: str) -> None:
    model = random_model("llama, plain")
    refused(write_gguf(tmp_path / "model.gguf", model, skip=lambda tensor: tensor == name))


def test_an_unknown_architecture_is_named_with_those_that_are_read(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0mamba", 1))
    refused(file, "GGUF architecture `mamba`", "It reads: gemma2, gemma3, llama, ")


def test_an_unknown_tensor_is_named(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_xy.weight"))
    refused(file, "`blk.1.ffn_xy.weight`")


@pytest.mark.parametrize("kind", [Kind.I32.value, Kind.Q8_1.value, 9999])
def test_a_type_that_cannot_be_dequantized_is_named(file: Path, kind: int) -> None:
    """The type follows a tensor's name, the number of its dimensions, and two dimensions."""
    content, name = bytearray(file.read_bytes()), b"blk.0.ffn_up.weight"
    at = content.index(name) + len(name) + 4 + 16
    content[at : at + 4] = struct.pack("<I", kind)
    file.write_bytes(content)
    refused(file, "`blk.0.ffn_up.weight`", "cannot dequantize")


def test_the_package_is_asked_for_in_one_sentence(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(UserError, match=r"needs the package gguf.*pip install 'lathe\[gguf\]'"):
        checkpoint_directory(file)


def test_space_is_checked_before_anything_is_written(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(file)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=2**20))
    refused(file, "has 1 MiB free", "needs 65 MiB", "LATHE_CACHE")


def test_a_failed_conversion_leaves_nothing(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(np, "fromfile", fail)
    with pytest.raises(UserError, match="cannot read .*Input/output error"):
        checkpoint_directory(file)
    assert not [*cache.glob("gguf/*/*"), *cache.glob("gguf/*/.*")]


def test_split_models_are_joined_or_refused(tmp_path: Path) -> None:
    model = random_model("qwen2")
    names = [tmp_path / f"model-0000{number}-of-00002.gguf" for number in (1, 2)]
    split = {"split.count": 2, "split.no": 0}
    write_gguf(names[0], model, metadata=split, skip=lambda name: "blk.3" in name)
    write_gguf(names[1], model, metadata={**dict.fromkeys(plain_tokens(0)), **split, "split.no": 1},
               skip=lambda name: "blk.3" not in name)  # fmt: skip
    first = open_checkpoint(str(names[1]))
    assert first.name == "model"
    assert open_checkpoint(str(names[0])).path == first.path
    alone = names[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(UserError, match="one of 2 parts"):
        checkpoint_directory(alone)
    with pytest.raises(UserError, match=r"model-00001-of-00002.gguf is missing"):
        checkpoint_directory(names[1])


def test_only_types_that_the_package_reads_are_taken() -> None:
    readable = {kind.name for kind in Kind if quantization._readable(kind.value)}
    assert {"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q4_K", "Q6_K", "IQ4_XS"} <= readable
    assert not {"I32", "Q8_1", "Q8_K"} & readable
