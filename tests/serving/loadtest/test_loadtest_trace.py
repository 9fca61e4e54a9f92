import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from lathe.artefact.errors import UserError
from lathe.serving.loadtest.compare import run
from lathe.serving.loadtest.load import Load
from lathe.serving.loadtest.mock import Mock
from lathe.serving.loadtest.prompts import PromptChoice
from lathe.serving.loadtest.testbed import Setup
from lathe.serving.loadtest.trace import RecordedRequest, Trace, read_trace

ServeMock = Callable[[Mock], str]

OURS = [
    {"at_s": 7.1, "prompt_tokens": 30, "output_tokens": 4},
    {"at_s": 7.0, "prompt_tokens": 10, "output_tokens": 2, "user": "x"},
    {"at_s": 7.3, "prompt_tokens": 21, "output_tokens": 3},
]
MOONCAKE = [
    {"timestamp": 7000, "input_length": 10, "output_length": 2, "hash_ids": [1]},
    {"timestamp": 7100, "input_length": 30, "output_length": 4},
    {"timestamp": 7300, "input_length": 21, "output_length": 3},
]
EXPECTED = [(0.0, 10, 2), (0.1, 30, 4), (0.3, 21, 3)]


def written(path: Path, lines: list[dict[str, float]]) -> Path:
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    return path


@pytest.mark.parametrize("lines", [OURS, MOONCAKE])
def test_a_trace_is_read_in_order_from_its_first_request(
    tmp_path: Path, lines: list[dict[str, float]]
) -> None:
    found = read_trace(written(tmp_path / "t.jsonl", lines)).requests
    assert [(round(r.at_s, 9), r.prompt_tokens, r.output_tokens) for r in found] == EXPECTED


def test_c5_a_trace_with_a_byte_order_mark_and_other_line_ends(tmp_path: Path) -> None:
    lines = [json.dumps(line | {"user": "a\u2028b"}, ensure_ascii=False) for line in OURS]
    (tmp_path / "t.jsonl").write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    (tmp_path / "t.json").write_text(json.dumps(OURS))
    for name in ("t.jsonl", "t.json"):
        assert [r.prompt_tokens for r in read_trace(tmp_path / name).requests] == [10, 30, 21]
    (tmp_path / "t.jsonl").write_text(lines[0] + "\n\n{}\n")
    with pytest.raises(UserError, match=r"line 3 of .*t\.jsonl is no recorded request"):
        read_trace(tmp_path / "t.jsonl")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{bad",
        "[1, 2, 3]",
        '{"at_s": 1}',
        '{"at_s": -1, "prompt_tokens": 1, "output_tokens": 1}',
        '{"at_s": "1", "prompt_tokens": 1, "output_tokens": 1}',
        '{"at_s": NaN, "prompt_tokens": 1, "output_tokens": 1}',
        '{"at_s": 1, "prompt_tokens": 0, "output_tokens": 1}',
        '{"at_s": 1, "prompt_tokens": 1, "output_tokens": 1.5}',
    ],
)
def test_what_is_no_trace_is_the_users_error(tmp_path: Path, line: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(line)
    with pytest.raises(UserError, match=r'A line is \{"at_s"'):
        read_trace(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_trace(tmp_path / "absent.jsonl")


def test_a_trace_is_replayed_at_its_times_with_its_lengths(serve_mock: ServeMock, tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path / "t.jsonl", OURS))
    found = run(serve_mock(Mock(tokens_per_word=1)), Load(trace=trace, warmup=1))
    samples = found["systems"]["server"]["rounds"][0]["samples"]
    assert [(s["prompt_tokens"], s["output_tokens"]) for s in samples] == [(p, o) for _, p, o in EXPECTED]
    assert all(s["sent_s"] >= at for s, (at, _, _) in zip(samples, EXPECTED, strict=True))
    assert found["settings"]["trace"] == {"file": str(trace.path), "requests": 3, "seconds": 0.3}
    assert "output_tokens" not in found["settings"]


async def test_lengths_between_are_on_the_line_between_the_fitted_ends() -> None:
    async def count(text: str) -> int:
        return 5 + 3 * len(text.split())

    wanted = (20, 305, 155, 20)
    trace = Trace(Path("t"), tuple(RecordedRequest(0.0, tokens, 1) for tokens in wanted))
    prompts = list(islice((await PromptChoice().make(trace, count))(0), 4))
    assert [5 + 3 * len(prompt.split()) for prompt in prompts] == [20, 305, 155, 20]


def test_a_trace_allows_no_other_lengths() -> None:
    trace = Trace(Path("t"), (RecordedRequest(0.0, 1, 1),))
    with pytest.raises(UserError, match="A trace has the lengths"):
        run("http://127.0.0.1:9", Load(trace=trace), setup=Setup(PromptChoice(tokens=3)))
    with pytest.raises(UserError, match="Give one of"):
        Load(trace=trace, rate=1.0)


def test_c5_lines_of_a_trace_are_those_of_an_editor(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    line = '{"at_s": 1, "prompt_tokens": 2, "output_tokens": 3, "note": "a\u2028b"}'
    path.write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n\r\n{line}\n".encode())
    assert len(read_trace(path).requests) == 2
    path.write_text(f"{line}\n\n\n{{bad\n")
    with pytest.raises(UserError, match="line 4 of"):
        read_trace(path)
