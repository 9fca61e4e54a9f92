"""The method that a run takes where none was asked for."""

from __future__ import annotations

import pytest

from lathe.artefact.errors import UserError
from lathe.artefact.plan import LayerShape, ModelShape
from lathe.compressor.search.method_choice import check_name, chosen_method


def llama(hidden: int, ffn: int, layers: int) -> ModelShape:
    """Returns a Llama of nine query heads in three groups."""
    return ModelShape(hidden, 49152, 64, True, layers, LayerShape(9, 3, ffn))


@pytest.mark.parametrize(("shape", "name"), [(llama(576, 1536, 30), "fast"), (llama(256, 512, 10), "lathe")])
def test_a_large_model_gets_the_faster_method(shape: ModelShape, name: str) -> None:
    assert chosen_method("auto", shape).name == name


def test_a_method_that_is_asked_for_is_taken_whatever_the_size() -> None:
    assert chosen_method("lathe", llama(576, 1536, 30)).name == "lathe"


def test_an_unknown_method_is_refused() -> None:
    check_name("auto")
    with pytest.raises(UserError, match="fastest"):
        check_name("fastest")
