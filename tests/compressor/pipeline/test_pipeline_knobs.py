"""Options of `compress` that say how the subnet is searched and reconstructed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lathe.artefact.errors import UserError
from lathe.artefact.plan import Plan
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.search.method_choice import chosen_method
from support.compress_command import Tiny
from support.tiny_llama import checkpoint

FAST = ("--keep", "60%", "--method", "quick", "--export", "checkpoint")


def test_widths_damping_and_rounds_are_what_was_asked_for(tiny: Tiny, tmp_path: Path) -> None:
    made = {}
    for name, options in {
        "auto": (),
        "damping": ("--damping", "0.1"),
        "ffn-levels": ("--ffn-levels", "2"),
        "refinements": ("--refinements", "1"),
    }.items():
        done = tiny.compress(tmp_path / name, *FAST, *options)
        assert done.exit_code == 0, done.output
        made[name] = (tmp_path / name / "model.safetensors").read_bytes()
        recorded = json.loads((tmp_path / name / "options.json").read_text())
        assert not options or str(recorded[name]) == options[1]
    assert len({*made.values()}) == 4
    dense = json.loads((tiny.model / "config.json").read_text())["intermediate_size"]
    assert {layer.ffn for layer in Plan.load(tmp_path / "ffn-levels" / "plan.json")} <= {dense, dense // 2, 0}


def test_rounds_replace_those_of_the_method(tmp_path: Path) -> None:
    shape = checkpoint(tmp_path).shape
    assert chosen_method("auto", shape).whole_rounds == 3
    assert chosen_method("auto", shape, 0).whole_rounds == 0
    assert chosen_method("quick", shape, 2).whole_rounds == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ffn_levels": 1}, "--ffn-levels 1 is not a number from 2 to 32"),
        ({"ffn_levels": 33}, "--ffn-levels 33 is not a number from 2 to 32"),
        ({"refinements": -1}, "--refinements -1 is not a number of rounds"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CompressOptions(model="m", out=Path("o"), keep=0.6, **options)


def test_a_damping_that_is_none_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    done = tiny.compress(tmp_path / "out", *FAST, "--damping", "0")
    assert done.exit_code == 1
    assert done.stderr == "error: --damping 0 is not a number above zero. Give one such as 0.01, or auto.\n"
