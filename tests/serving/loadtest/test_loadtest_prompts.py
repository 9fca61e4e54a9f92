from itertools import islice
from pathlib import Path

import pytest

from compressor.errors import UserError
from serving.loadtest.prompts import PromptChoice, file_prompts, word_prompts


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

    prompt = next((await PromptChoice(tokens).made(None, count))(0))
    length = len(prompt.split()) * per_word + template
    assert length <= tokens or len(prompt.split()) == 1
    assert tokens - length < per_word or len(prompt.split()) == 1
    assert len(asked) <= 8


async def test_a_server_without_counts_gets_a_word_per_token() -> None:
    async def count(_text: str) -> None:
        return None

    assert len(next((await PromptChoice(40).made(None, count))(0)).split()) == 40


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
