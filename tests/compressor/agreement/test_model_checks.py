"""Checkpoints that transformers does not take: one sentence at the start, and nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from transformers import AutoTokenizer

from lathe.artefact.library_errors import reason
from lathe.artefact.tokenizer import own_code
from support.compress_command import Tiny, lathe

pytestmark = pytest.mark.usefixtures("steady")


@pytest.fixture
def model(tiny: Tiny, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.model, tmp_path / "model"))


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | changes))


def compress(model: Path, text: str, *options: str) -> Result:
    """The dry run of everything before a weight is read."""
    out = model.parent / "out"
    done = lathe(
        "compress",
        str(model),
        "--keep",
        "70%",
        "--export",
        "checkpoint",
        "--calibration",
        text,
        "--calibration-tokens",
        "2048",
        "-o",
        str(out),
        "--dry-run",
        *options,
    )
    assert {entry.name for entry in model.parent.iterdir()} == {"model"}
    return done


def refused(done: Result, *words: str) -> None:
    assert done.exit_code == 1, done.output
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize("text", ["self", "file"])
@pytest.mark.parametrize("token", [50256, 320, -1, "1", True])
def test_c6_a_first_token_outside_the_vocabulary_is_refused(
    tiny: Tiny, model: Path, text: str, token: object
) -> None:
    edit(model / "config.json", bos_token_id=token)
    refused(compress(model, "self" if text == "self" else str(tiny.text)), "bos_token_id")


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"eos_token_id": [1, 99999]}, "eos_token_id 99999"),
        ({"eos_token_id": -1}, "eos_token_id -1"),
        ({"pad_token_id": -1}, "pad_token_id -1"),
    ],
)
def test_c6_what_transformers_passes_over_is_told(
    tiny: Tiny, model: Path, file: str, changes: dict[str, Any], words: str
) -> None:
    edit(model / file, **changes)
    done = compress(model, str(tiny.text), "--json")
    assert done.exit_code == 0, done.output
    (warning,) = json.loads(done.stdout)["warnings"]
    assert f"{words} of {model / file} is no token of the model" in warning
    assert f"warning: {warning}\n" in done.stderr


def test_c6_a_broken_generation_config_is_refused(tiny: Tiny, model: Path) -> None:
    (model / "generation_config.json").write_text("{")
    refused(compress(model, str(tiny.text)), "cannot read", "generation_config.json")
    edit_of = {"bos_token_id": 5000}
    (model / "generation_config.json").write_text(json.dumps(edit_of))
    refused(compress(model, str(tiny.text)), "bos_token_id 5000", "generation_config.json")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pad_token_id": 320}, "pad_token_id 320 is outside the vocabulary of 320"),
        ({"pad_token_id": -321}, "pad_token_id -321 is outside the vocabulary"),
        ({"pad_token_id": 1.5}, "pad_token_id"),
        ({"eos_token_id": ["1"]}, "eos_token_id"),
        ({"head_dim": 0}, "`head_dim` is 0"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": "x"}}, "cannot make a model of"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "rope_parameters"),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": "10000.0"}},
            'rope_parameters.rope_theta "10000.0" must be a number',
        ),
        ({"rope_scaling": {"rope_type": "linear", "factor": "2"}}, 'factor "2" must be a number'),
        ({"num_key_value_heads": 3}, "config.json has an impossible dimension: query heads must be"),
        ({"num_key_value_heads": -2}, "config.json has an impossible dimension"),
        ({"intermediate_size": 0}, "`intermediate_size`"),
        ({"num_hidden_layers": -1}, "`num_hidden_layers`"),
        ({"dtype": "auto"}, "unknown dtype `auto`. Write"),
        ({"max_position_embeddings": -5}, "allows -5 positions"),
        ({"max_position_embeddings": 0}, "allows 0 positions"),
        ({"max_position_embeddings": "512"}, "max_position_embeddings"),
        ({"initializer_range": -1.0}, "initializer_range"),
        ({"layer_types": ["odd", "odd"]}, "layer_types"),
    ],
)
def test_c7_what_the_model_class_refuses_is_named(
    tiny: Tiny, model: Path, changes: dict[str, Any], words: str
) -> None:
    edit(model / "config.json", **changes)
    refused(compress(model, str(tiny.text)), words)


def test_c7_an_export_of_such_a_model_is_refused(model: Path, tmp_path: Path) -> None:
    edit(model / "config.json", pad_token_id=320)
    refused(lathe("export", str(model), "-o", str(tmp_path / "out")), "pad_token_id 320")
    assert not (tmp_path / "out").exists()


def custom(model: Path) -> None:
    edit(
        model / "tokenizer_config.json",
        tokenizer_class="OddTokenizer",
        auto_map={"AutoTokenizer": ["tokenization_odd.OddTokenizer", None]},
    )
    (model / "tokenization_odd.py").write_text("raise SystemExit('ran')")


def bare(model: Path) -> None:
    for file in model.glob("*token*"):
        file.unlink()


def pieces(model: Path) -> None:
    bare(model)
    (model / "tokenizer.model").write_bytes(b"pieces")
    edit(model / "tokenizer_config.json", tokenizer_class="LlamaTokenizer")


def broken(model: Path) -> None:
    (model / "tokenizer.json").write_text("{")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (custom, "it has code of its own (`tokenization_odd.OddTokenizer`), which Lathe does not run"),
        (bare, "there is no tokenizer.json"),
        (broken, "tokenizer.json is not JSON"),
        (pieces, "tokenizer.model"),
    ],
)
def test_c12_a_tokenizer_that_cannot_be_loaded(
    tiny: Tiny, model: Path, change: Callable[[Path], None], words: str
) -> None:
    change(model)
    commands = [
        compress(model, "self"),
        compress(model, str(tiny.text)),
        lathe("evaluate", str(model), "--text", str(tiny.text)),
    ]
    for done in commands:
        refused(done, "cannot load the tokenizer", words)
        assert "trust_remote_code" not in done.stderr


def test_c12_code_beside_a_tokenizer_of_transformers_is_not_needed(tiny: Tiny, model: Path) -> None:
    edit(model / "config.json", auto_map={"AutoConfig": "a.B", "AutoModelForCausalLM": "a.C"})
    edit(model / "tokenizer_config.json", auto_map={"AutoTokenizer": ["a.D", None]})
    assert own_code(model) == "a.D"
    done = compress(model, str(tiny.text), "--json")
    assert done.exit_code == 0
    of_model, of_tokenizer = json.loads(done.stdout)["warnings"]
    assert "code of its own for the model (`a.C`), which Lathe does not run" in of_model
    assert "code of its own for the tokenizer (`a.D`), which Lathe does not run" in of_tokenizer


def test_c12_advice_that_no_command_can_take_is_left_out() -> None:
    message = (
        "The repository x contains custom code which must be executed.\n You can inspect it at "
        "https://hf.co/x.\nPlease pass the argument `trust_remote_code=True` to allow it."
    )
    assert reason(ValueError(message)) == "The repository x contains custom code which must be executed."
    assert reason(ValueError("Set `ignore_mismatched_sizes=True`.")) == "ValueError"
    assert reason(KeyError("gone")) == "KeyError: 'gone'"
    assert len(reason(ValueError("word " * 500))) < 310


@pytest.fixture
def widened(model: Path) -> Path:
    """With two tokens beyond the vocabulary."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    tokenizer.save_pretrained(model)
    return model


@pytest.mark.parametrize("text", ["self", "file"])
def test_c15_tokens_beyond_the_vocabulary_that_the_template_uses_are_told(
    tiny: Tiny, widened: Path, text: str
) -> None:
    (widened / "chat_template.jinja").write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    )
    done = compress(widened, "self" if text == "self" else str(tiny.text), "--json")
    assert done.exit_code == 0, done.output
    (warning,) = json.loads(done.stdout)["warnings"]
    assert "<|im_start|>, <|im_end|>, which the model's vocabulary of 320 has no place for" in warning
    chats = widened.parent / "chats.jsonl"
    chats.write_text(json.dumps({"messages": [{"role": "user", "content": "words " * 2000}]}))
    done = lathe("evaluate", str(widened), "--text", str(chats))
    assert done.exit_code == 1
    assert "ids beyond the model's 320 tokens" in done.stderr


def test_c15_tokens_beyond_it_that_nothing_uses_are_not(tiny: Tiny, widened: Path) -> None:
    done = compress(widened, str(tiny.text), "--json")
    assert json.loads(done.stdout)["warnings"] == []
