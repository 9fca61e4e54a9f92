from itertools import islice
from pathlib import Path

import pytest

from lathe.artefact.errors import UserError
from lathe.serving.loadtest.prompts import PromptChoice, file_prompts, word_prompts


def test_prompts_repeat_with_the_seed_and_share_their_words() -> None:
    first, again, other = (list(islice(word_prompts([30])(seed), 5)) for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first)) == 5
    assert len({tuple(sorted(prompt.split())) for prompt in first + other}) == 1


@pytest.mark.parametrize(("per_word", "template"), [(1, 0), (3, 0), (1, 12), (4, 30)])
@pytest.mark.parametrize("tokens", [1, 64, 500])
async def test_prompts_are_fitted_to_the_servers_tokens(per_word: int, template: int, tokens: int) -> None:
    asked = []

    async def count(text: str) -> int:
        asked.append(text)
        return len(text.split()) * per_word + template

    prompt = next((await PromptChoice(tokens).make(None, count))(0))
    length = len(prompt.split()) * per_word + template
    assert length <= tokens or len(prompt.split()) == 1
    assert tokens - length < per_word or len(prompt.split()) == 1
    assert len(asked) <= 8


async def test_a_server_without_counts_gets_a_word_per_token() -> None:
    async def count(_text: str) -> None:
        return None

    assert len(next((await PromptChoice(40).make(None, count))(0)).split()) == 40


def test_prompts_from_files(tmp_path: Path) -> None:
    text, lines = tmp_path / "a.txt", tmp_path / "b.jsonl"
    text.write_text("one\n\ntwo\nthree\n")
    lines.write_text('"one"\n{"prompt": "two"}\n{"text": "three", "id": 3}\n')
    for path in (text, lines):
        assert list(islice(file_prompts(path)(0), 4)) == ["one", "two", "three", "one"]
        assert next(file_prompts(path)(1)) == "two"


@pytest.mark.parametrize("content", ["", "\n", "{bad", '{"question": "x"}', "[1]"])
def test_a_file_without_prompts_is_the_users_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=r"p\.jsonl"):
        file_prompts(path)
    with pytest.raises(UserError, match="cannot be read"):
        file_prompts(tmp_path / "absent.txt")


def test_c5_only_a_line_feed_ends_a_line_and_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    odd = "a\u2028b\u0085c\x0cd"
    for name, content in (
        ("p.jsonl", f'"{odd[:3]}"\n\n{{"prompt": "{odd[:5]}"}}\n'),
        ("P.JSONL", f'"{odd[:3]}"\r\n"{odd[:5]}"\r\n'),
        ("p.txt", f"{odd}\n\nx\n"),
    ):
        path = tmp_path / name
        path.write_bytes(b"\xef\xbb\xbf" + content.encode())
        expected = [odd, "x"] if name == "p.txt" else [odd[:3], odd[:5]]
        assert list(islice(file_prompts(path)(0), 2)) == expected


def test_c5_the_line_that_is_wrong_is_the_line_that_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('"a\u2028b"\n\n\n{bad\n')
    with pytest.raises(UserError, match="line 4 of"):
        file_prompts(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.JSONL", '"one"\n{"prompt": "two"}'),
        ("p.ndjson", '"one"\n"two"'),
        ("p.csv", "id,prompt\n1,one\n2,two\n"),
        ("p.json", '["one", {"text": "two"}]'),
        ("p.txt", "\ufeffone\r\n\r\ntwo\r\n"),
        ("p.jsonl", '\ufeff"one"\n"two"'),
    ],
)
def test_c4_c5_prompts_of_every_form(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_bytes(content.encode())
    assert list(islice(file_prompts(tmp_path / name)(0), 3)) == ["one", "two", "one"]


def test_c5_a_separator_of_unicode_stays_in_a_prompt(tmp_path: Path) -> None:
    for name, content in {"a.txt": "a\u2028b\x0cc\x85d", "b.jsonl": '"a\u2028b\x85c"'}.items():
        (tmp_path / name).write_text(content)
        assert next(file_prompts(tmp_path / name)(0)) == content.strip('"')


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", '"a"\n\n{"prompt": null}', "line 3 of .*p.jsonl"),
        ("p.json", '[{"prompt": ["a"]}]', "item 1 of"),
        ("p.txt", '{"prompt": "a"}', "p.txt holds JSON"),
        ("p.csv", "question\na\n", "row 1 of"),
        ("p.xlsx", "", "p.xlsx cannot be read as text"),
    ],
)
def test_c4_what_is_no_prompt_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        file_prompts(tmp_path / name)
