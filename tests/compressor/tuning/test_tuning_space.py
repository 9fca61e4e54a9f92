"""The search space: what it is made of, and what is refused before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lathe.artefact.errors import UserError
from lathe.artefact.plan import LayerShape, ModelShape
from lathe.compressor.pipeline.options import CompressOptions
from lathe.compressor.tuning.space import option_values, tuning_space

SHAPE = ModelShape(64, 120, 16, True, 2, LayerShape(4, 2, 96))


def options(**changes: Any) -> CompressOptions:
    return CompressOptions(model="m", out=Path("o"), keep=0.6, **changes)


def test_the_usual_space_is_around_what_was_given() -> None:
    space = tuning_space([], None, options(calibration_tokens=8192), SHAPE)
    assert space.values["calibration-tokens"] == (1024, 2048, 4096, 8192)
    assert "group-size" not in space.values  # nothing is rounded
    assert space.default is not None
    assert space.at(space.default) == space.given
    assert space.given["method"] == "lathe"
    assert space.given["refinements"] == 3
    rounded = tuning_space([], None, options(quantize="int8"), SHAPE)
    assert "32" in rounded.values["group-size"]


def test_ranges_and_lists_are_read_from_the_command_line_and_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("damping: 0.001..0.1\nffn_levels: [4, 32]\nmethod: quick,fast\n")
    space = tuning_space(["--damping=auto,1e-2"], file, options(), SHAPE)
    assert space.values == {
        "damping": (None, 1e-2),
        "ffn-levels": (4, 32),
        "method": ("quick", "fast"),
    }
    assert space.default is None  # the given method is lathe
    assert option_values(space.at((1, 0, 1))) == {"damping": 1e-2, "ffn_levels": 4, "method": "fast"}
    assert CompressOptions(model="m", out=Path("o"), keep=0.6, **option_values(space.at((1, 0, 1))))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("damping=0.1", "the search space has one point"),
        ("dampng=0.1..1", "there is no knob `dampng`. The nearest is `damping`"),
        ("ffn-levels=32..4", "the bounds are reversed"),
        ("ffn-levels=4..64", "ffn-levels cannot be 64. Its values are 2, 4, 8, 16, 32"),
        ("method=lathe,annealing", "method cannot be annealing"),
        ("damping", "has no values"),
        ("group-size=32,64", "--group-size does nothing in this run"),
    ],
)
def test_a_bad_space_is_refused(asked: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        tuning_space([asked], None, options(), SHAPE)
    assert message in str(caught.value)
