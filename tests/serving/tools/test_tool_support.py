"""What a chat template makes of tools is found by giving it some."""

from __future__ import annotations

from pathlib import Path

import pytest

from lathe.serving.decoding.tokenizer import Tokenizer
from lathe.serving.tools.template_support import ToolSupport, tool_support_of
from support.tiny_server import CHAT_TEMPLATE
from support.tool_models import CODER, LLAMA, MISTRAL_3, QWEN, SMOLLM, TEMPLATES, save_calling_tokenizer

TEXT_ONLY = QWEN.replace("{{ c.function.arguments | tojson }}", "{{ '' + c.function.arguments }}")
NO_RESULTS = QWEN.replace("{% if m.role == 'tool' %}", "{% if m.role == 'tool' %}{% elif m.role == 'x' %}")


def support(directory: Path, template: str | dict[str, str]) -> ToolSupport | None:
    save_calling_tokenizer(directory, template=template)
    return tool_support_of(Tokenizer(directory).render_chat)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_with_calls_is_known_by_how_it_writes_one(tmp_path: Path, name: str):
    found = support(tmp_path, TEMPLATES[name])
    assert found is not None
    assert found.format is not None
    assert found.format.name == name
    assert found.shows_calls
    assert found.shows_results
    assert not found.text_arguments


def test_smollm3_leaves_calls_out(tmp_path: Path):
    found = support(tmp_path, SMOLLM)
    assert found is not None
    assert found.format is not None
    assert (found.format.name, found.shows_calls, found.shows_results) == ("hermes", False, True)


def test_templates_that_join_arguments_as_text(tmp_path: Path):
    found = support(tmp_path, TEXT_ONLY)
    assert found is not None
    assert found.text_arguments
    assert found.shows_calls


@pytest.mark.parametrize(
    ("template", "known"),
    [
        (CHAT_TEMPLATE, False),
        ("{{ messages[0].content }}{# tools <tool_call> #}", False),
        ("{% if tools %}{{ raise_exception('no tools') }}{% endif %}{{ messages[0].content }}", False),
        (CODER, True),
    ],
)
def test_no_tools_and_unknown_forms(tmp_path: Path, template: str, known: bool):
    found = support(tmp_path, template)
    assert (found is not None) == known
    assert found is None or found.format is None


def test_templates_that_show_calls_beside_tools_only(tmp_path: Path):
    """A second template for chats with tools, as Hermes 2 Pro has."""
    for at, (template, alone) in enumerate(
        [(QWEN, True), ({"default": CHAT_TEMPLATE, "tool_use": QWEN}, False)]
    ):
        directory = tmp_path / str(at)
        directory.mkdir()
        found = support(directory, template)
        assert found is not None
        assert found.format is not None
        assert (found.format.name, found.alone) == ("hermes", alone)


def test_one_family_is_not_taken_for_another(tmp_path: Path):
    """Instructions that mention another family's marks do not decide."""
    for at, template in enumerate((LLAMA, MISTRAL_3)):
        named = "{# <tool_call> #}" + template
        directory = tmp_path / str(at)
        directory.mkdir()
        found = support(directory, named)
        assert found is not None
        assert found.format is not None
        assert found.format.name == ("llama3_json", "mistral_list")[at]


def test_results_that_a_template_leaves_out(tmp_path: Path):
    found = support(tmp_path, NO_RESULTS)
    assert found is not None
    assert found.shows_calls
    assert not found.shows_results
