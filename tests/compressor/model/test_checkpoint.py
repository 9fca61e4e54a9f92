"""Checkpoints: every shape of good ones is read, every kind of bad one gives one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lathe.artefact.errors import UserError
from lathe.compressor.model.checkpoint import open_checkpoint
from lathe.compressor.model.safetensors_index import read_header
from support.tiny_llama import VARIANTS, checkpoint, dense_model

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("good") / "tiny", num_hidden_layers=2).path


@pytest.fixture
def model(good: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(good, tmp_path / "tiny"))


def test_masks_that_are_called_a_bias_are_no_weights(model: Path) -> None:
    """As in Pythia's published checkpoints."""
    tensors, name = load_file(model / WEIGHTS), "model.layers.0.self_attn.bias"
    save_file({**tensors, name: torch.ones(4, 4, dtype=torch.uint8)}, model / WEIGHTS)
    assert name not in [*open_checkpoint(str(model)).names()]
    save_file({**tensors, name: torch.ones(4, 4)}, model / WEIGHTS)
    with pytest.raises(UserError, match="has no place for"):
        open_checkpoint(str(model))


def test_rows_are_those_of_the_whole_matrix(good: Path) -> None:
    source, name = open_checkpoint(str(good)), "model.embed_tokens.weight"
    at = torch.tensor([[5, 0, 5], [1, source.shape.vocab_size - 1, 2]])
    assert torch.equal(source.tensor(name, at), source.tensor(name)[at])
    with pytest.raises(IndexError):
        source.tensor(name, at + 1)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shard", ["5GB", "60KB"])
def test_tensors_are_those_that_were_saved(tmp_path: Path, variant: str, shard: str) -> None:
    saved = dense_model(**VARIANTS[variant])
    saved.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "60KB")
    source, state = open_checkpoint(str(tmp_path)), saved.state_dict()
    assert source.shape.tied_embeddings == (variant == "tied")
    assert set(source.names()) == {n for n in state if n != "lm_head.weight" or variant != "tied"}
    assert all(torch.equal(source.tensor(name), state[name]) for name in source.names())
    layer = source.layer(1)
    assert torch.equal(layer["mlp.up_proj.weight"], state["model.layers.1.mlp.up_proj.weight"])


def test_bfloat16_is_read_as_float32_and_remembered(tmp_path: Path) -> None:
    source = checkpoint(tmp_path, dtype=torch.bfloat16)
    assert source.dtype == torch.bfloat16
    assert source.tensor("model.norm.weight").dtype == torch.float32


def test_what_is_read_is_a_copy_that_holds_no_file(good: Path) -> None:
    entries, whole = read_header(good / WEIGHTS), load_file(good / WEIGHTS)
    assert all(torch.equal(entry.read(), whole[name]) for name, entry in entries.items())
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(entries[name].read(slice(3, 9)), whole[name][3:9])
    assert len(entries[name].read(slice(5, 5))) == 0
    del whole
    held = [entry.read() for entry in entries.values()]
    maps = Path("/proc/self/maps")
    assert not maps.exists() or str(good) not in maps.read_text(), len(held)


def test_scalars_and_every_type_are_read(tmp_path: Path) -> None:
    tensors = {
        str(dtype): torch.arange(6).view(2, 3).to(dtype)
        for dtype in (torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int8, torch.bool)
    } | {"scalar": torch.tensor(2.5), "none": torch.empty(0, 3)}
    save_file(tensors, tmp_path / WEIGHTS)
    read = {name: entry.read() for name, entry in read_header(tmp_path / WEIGHTS).items()}
    assert read.keys() == tensors.keys()
    assert all(v.dtype == tensors[n].dtype and torch.equal(v, tensors[n]) for n, v in read.items())


def header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite a safetensors header in place of the old one."""
    content = (path / WEIGHTS).read_bytes()
    length = int.from_bytes(content[:8], "little")
    document = json.loads(content[8 : 8 + length])
    change(document)
    raw = json.dumps(document).encode()
    (path / WEIGHTS).write_bytes(len(raw).to_bytes(8, "little") + raw + content[8 + length :])


def tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    values = load_file(path / WEIGHTS)
    change(values)
    save_file(values, path / WEIGHTS, {"format": "pt"})


def config(path: Path, **changes: Any) -> None:
    document = json.loads((path / "config.json").read_text()) | changes
    (path / "config.json").write_text(json.dumps(document))


def cut(path: Path, size: int) -> None:
    (path / WEIGHTS).write_bytes((path / WEIGHTS).read_bytes()[:size])


def length(path: Path, value: int) -> None:
    content = (path / WEIGHTS).read_bytes()
    (path / WEIGHTS).write_bytes(value.to_bytes(8, "little") + content[8:])


def only_bin(path: Path) -> None:
    (path / WEIGHTS).rename(path / "pytorch_model.bin")


def index(path: Path, text: str) -> None:
    """Instead of the single file, which would be read."""
    (path / WEIGHTS).rename(path / "model-00001-of-00001.safetensors")
    (path / "model.safetensors.index.json").write_text(text)


NORM = "model.norm.weight"
BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda p: (p / "config.json").unlink(), "no config.json"),
    "config is not JSON": (lambda p: (p / "config.json").write_text("{"), "config.json"),
    "config is binary": (lambda p: (p / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json"),
    "config is a list": (lambda p: (p / "config.json").write_text("[]"), "config.json"),
    "config nests without end": (lambda p: (p / "config.json").write_text("[" * 10**6), "config.json"),
    "no model type": (lambda p: config(p, model_type=None), "model_type"),
    "model type is a list": (lambda p: config(p, model_type=["llama"]), "model type"),
    "unknown model type": (lambda p: config(p, model_type="mamba9"), "mamba9.*Supported: .*llama"),
    "quantized": (lambda p: config(p, quantization_config={"bits": 4}), "quantized"),
    "a dimension is text": (lambda p: config(p, hidden_size="wide"), "impossible dimension"),
    "a dimension is infinite": (lambda p: config(p, hidden_size=float("inf")), "impossible dimension"),
    "no heads": (lambda p: config(p, num_attention_heads=0), "both be zero or both positive"),
    "no layers": (lambda p: config(p, num_hidden_layers=0), "dimension of 0"),
    "negative width": (lambda p: config(p, vocab_size=-5), "dimension of -5"),
    "heads are no multiple": (lambda p: config(p, num_key_value_heads=3), "multiple of KV heads"),
    "too many layers": (lambda p: config(p, num_hidden_layers=3), r"lacks the tensor `model\.layers\.2"),
    "unknown dtype": (lambda p: config(p, dtype="float3"), "float3"),
    "integer dtype": (lambda p: config(p, dtype="int8"), "int8"),
    "truncated": (lambda p: cut(p, 50_000), r"model\.safetensors .*truncated or corrupt"),
    "truncated in the header": (lambda p: cut(p, 200), r"model\.safetensors .*truncated or corrupt"),
    "truncated in the length": (lambda p: cut(p, 5), r"model\.safetensors .*truncated or corrupt"),
    "empty": (lambda p: cut(p, 0), r"model\.safetensors .*truncated or corrupt"),
    "header length 2^60": (lambda p: length(p, 2**60), r"model\.safetensors .*truncated or corrupt"),
    "header length 0": (lambda p: length(p, 0), r"model\.safetensors .*truncated or corrupt"),
    "header of brackets": (
        lambda p: (p / WEIGHTS).write_bytes((10**6).to_bytes(8, "little") + b"[" * 10**6),
        "header",
    ),
    "no weights": (lambda p: (p / WEIGHTS).unlink(), r"no model\.safetensors"),
    "only .bin weights": (only_bin, "convert them to safetensors"),
    "a tensor is missing": (lambda p: tensors(p, lambda t: t.pop(NORM)), "lacks the tensor `model.norm"),
    "wrong shape": (lambda p: tensors(p, lambda t: t.update({NORM: torch.ones(3)})), r"norm.*\[3\].*\[64\]"),
    "integer weights": (lambda p: tensors(p, lambda t: t.update({NORM: t[NORM].int()})), "norm.*I32"),
    "no shape": (lambda p: header(p, lambda h: h[NORM].pop("shape")), "malformed|header"),
    "offsets disagree": (lambda p: header(p, lambda h: h[NORM].update(shape=[65])), "header|bytes|invalid"),
    "offsets overlap": (
        lambda p: header(p, lambda h: h[NORM].update(data_offsets=[0, 256])),
        "truncated or corrupt",
    ),
    "index is not JSON": (lambda p: index(p, "{"), "index.json"),
    "index is a list": (lambda p: index(p, "[]"), "index.json"),
    "index maps to lists": (lambda p: index(p, '{"weight_map": {"a": []}}'), "index.json"),
    "a shard is missing": (
        lambda p: index(p, '{"metadata": {}, "weight_map": {"a": "b.safetensors"}}'),
        "b.safetensors",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_checkpoints_are_named_in_one_sentence(model: Path, kind: str) -> None:
    damage, message = BAD[kind]
    damage(model)
    with pytest.raises(UserError, match=message) as caught:
        open_checkpoint(str(model))
    assert "\n" not in str(caught.value)


def test_places_without_a_model_are_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, message in {
        str(model / "nowhere"): "no model directory .*nowhere",
        str(model / "config.json"): "is a file",
        "nowhere": "no model directory nowhere",
        "no/where": "`no/where` is neither a local directory nor",
    }.items():
        with pytest.raises(UserError, match=message):
            open_checkpoint(name)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_named_when_read(model: Path, value: float) -> None:
    tensors(model, lambda t: t[NORM].__setitem__(5, value))
    source = open_checkpoint(str(model))
    with pytest.raises(UserError, match=r"`model\.norm\.weight` in .*NaN or infinity"):
        source.tensor(NORM)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_header_gives_a_sentence(good: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray((good / WEIGHTS).read_bytes())
    size = 8 + int.from_bytes(content[:8], "little")
    flips = st.lists(st.tuples(st.integers(0, size - 1), st.integers(1, 255)), min_size=1, max_size=4)
    for at, mask in data.draw(flips):
        content[at] ^= mask
    (tmp_path / WEIGHTS).write_bytes(content)
    shutil.copy(good / "config.json", tmp_path)
    refusal = ""
    try:
        source = open_checkpoint(str(tmp_path))
        for name in source.names():
            source.tensor(name)
    except UserError as error:
        refusal = str(error)
    assert "\n" not in refusal
