"""Files of text as users have them: each row is a document, or is refused by file and row."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lathe.artefact.errors import UserError
from lathe.compressor.calibration.documents import ChatText, Reading
from lathe.compressor.calibration.sources import read_documents

SHARED = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]
CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    warn = say


def render(messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None) -> str:
    said = "".join(f"<{m['role']}>{m['content']}" for m in messages)
    return said + (f"<{len(tools)} tools>" if tools else "")


def read(path: Path, content: str | bytes, log: Log | None = None) -> list[str]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_documents(str(path), Reading(render, log or Log()))


def rows(*values: object) -> str:
    return "\n".join(json.dumps(value) for value in values)


@pytest.mark.parametrize(
    ("name", "content", "documents"),
    [
        ("a.json", rows([{"text": "one"}, {"text": "two"}]), ["one", "two"]),
        ("strings.json", rows(["one", "two"]), ["one", "two"]),
        ("wrapped.json", rows({"version": 1, "data": [{"text": "one"}]}), ["one"]),
        ("single.json", rows({"text": "one"}), ["one"]),
        ("lines.json", rows({"text": "one"}, {"text": "two"}), ["one", "two"]),
        ("pretty.json", json.dumps([{"text": "one"}], indent=2), ["one"]),
        ("A.JSON", rows([{"text": "one"}]), ["one"]),
        ("x.JSONL", rows({"text": "one"}), ["one"]),
        ("x.NdJson", rows({"text": "one"}, "two"), ["one", "two"]),
        ("other.jsonl", rows({"id": 1, "content": "one"}), ["one"]),
        ("case.jsonl", rows({"Text": "one", "content": "no"}), ["one"]),
        ("x.csv", 'id,text\r\n1,"one, two\nthree"\r\n2,four\r\n', ["one, two\nthree", "four"]),
        ("long.csv", "text\n" + "x" * 200_000, ["x" * 200_000]),
        ("x.TSV", "text\tid\none, two\t1\n", ["one, two"]),
        ("x.jsonl.gz", gzip.compress(rows({"text": "one"}).encode(), mtime=0), ["one"]),
        ("x.csv.bz2", bz2.compress(b"text\none\n"), ["one"]),
        ("x.txt.xz", lzma.compress(b"one"), ["one"]),
        ("x.txt", "[1] Smith\n{curly} prose", ["[1] Smith\n{curly} prose"]),
        ("noend", "one", ["one"]),
        ("x.py", "a = {}", ["a = {}"]),
        ("chat.jsonl", rows({"messages": CHAT}), ["<user>hi<assistant>yo"]),
        ("tools.jsonl", rows({"messages": CHAT, "tools": [{}]}), ["<user>hi<assistant>yo<1 tools>"]),
        ("chat.json", rows(CHAT), ["<user>hi<assistant>yo"]),
        ("share.json", rows([{"conversations": SHARED}]), ["<user>hi<assistant>yo"]),
        (
            "parts.jsonl",
            rows({"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}),
            ["<user>hi"],
        ),
        (
            "calls.jsonl",
            rows({"messages": [{"role": "assistant", "content": None, "tool_calls": []}]}),
            ["<assistant>None"],
        ),
        ("roles.jsonl", rows({"role": "smith", "text": "one"}), ["one"]),
        ("mails.json", rows([{"from": "a@b", "text": "one"}]), ["one"]),
    ],
)
def test_c4_structured_text_is_parsed(
    tmp_path: Path, name: str, content: str | bytes, documents: list[str]
) -> None:
    assert read(tmp_path / name, content) == documents


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", rows([{"text": "a"}, {"text": None}]), "item 2 of .*x.json: `text` is null"),
        ("x.json", rows({"text": ["a"]}), "x.json: `text` is a list"),
        ("x.json", rows([{"data": "a"}]), "item 1 of .*x.json has no `text`: it has data"),
        ("x.json", rows(3), "x.json is a number"),
        ("x.json", "[1,", "line 1 of .*x.json is not JSON"),
        ("x.json", "", "line 1 of .*x.json is not JSON"),
        ("x.json", rows([]), "x.json is empty"),
        ("x.json", "[" * 100_000, "x.json is not JSON that can be read"),
        ("x.jsonl", rows({"text": "a"}, {"text": 3}), "line 2 of .*x.jsonl: `text` is a number"),
        ("x.jsonl", rows({"text": True}), "`text` is a truth value"),
        ("x.jsonl", rows({"text": {"a": 1}}), "`text` is an object"),
        ("x.jsonl", rows(None), "line 1 of .*x.jsonl is null"),
        ("x.jsonl", rows({"prompt": "a", "answer": "b"}), "has no `text`: it has prompt, answer"),
        ("x.jsonl", rows({"role": "user", "content": "a"}), "line 1 of .*x.jsonl is one message"),
        ("x.jsonl", rows({"messages": []}), "line 1 of .*: its chat is empty"),
        ("x.jsonl", rows({"messages": "a"}), "its chat is text, not a list"),
        ("x.jsonl", rows({"messages": [{"role": "user", "content": 1}]}), "message 1: its content is a"),
        ("x.jsonl", rows({"messages": [{"role": "user", "content": [{"type": "image"}]}]}), "not text"),
        ("x.jsonl", rows({"conversations": [{"from": "cat", "value": "a"}]}), "is from `cat`"),
        ("x.jsonl", rows({"messages": CHAT, "tools": "[]"}), "`tools` is text, not a list"),
        ("x.jsonl", rows({"text": "\ud800"}), "half a character"),
        ("x.csv", "id;text\n1;a\n", "row 1 of .*x.csv .*has no `text`: it has id;text"),
        ("x.csv", "text,id\na,1,2\n", "row 1 of .*x.csv .*has 3 fields"),
        ("x.csv", 'text\n"a', "x.csv is not CSV"),
        ("x.csv", "text\n", "x.csv is empty"),
        ("x.txt", rows({"text": "a"}, {"text": "b"}), "x.txt holds JSON"),
        ("x.log", rows([1]), "x.log holds JSON"),
        ("x.txt", "a\0b", "NUL"),
        ("x.txt", "hi".encode("utf-16"), "cannot read .*x.txt as UTF-8 text: byte 0"),
        ("x.txt", "a\né".encode("latin-1"), r"byte 2 \(in line 2\)"),
        ("x.jsonl.gz", b"no gzip", "cannot read .*x.jsonl.gz"),
        ("x.pdf", b"%PDF", "x.pdf cannot be read as text"),
        ("x.yaml", "a: b", "x.yaml cannot be read as text"),
        ("x.zip", b"PK", "unpack it"),
        ("x.parquet", b"PAR1", "x.parquet"),
    ],
)
def test_c4_what_is_no_text_is_refused_by_file_and_row(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path / name, content)


def test_c4_parquet_is_read_where_pyarrow_is_installed(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"id": [1, 2], "text": ["one", None]})
    parquet.write_table(table.slice(0, 1), tmp_path / "a.parquet")
    assert read_documents(str(tmp_path / "a.parquet")) == ["one"]
    parquet.write_table(table, tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"row 2 of .*b\.parquet: `text` is null"):
        read_documents(str(tmp_path / "b.parquet"))


def test_c4_a_chat_without_a_template_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(rows({"messages": CHAT}))
    with pytest.raises(UserError, match=r"line 1 of .*x\.jsonl is a chat, and no model"):
        read_documents(str(tmp_path / "x.jsonl"))


def test_c4_a_folder_tells_what_it_passes_over(tmp_path: Path) -> None:
    for name, content in {
        "a.txt": "one",
        "b/X.JSONL": rows({"text": "two"}),
        "c.Csv": "text\nthree\n",
        "image.png": "",
        ".hidden.txt": "no",
        ".git/notes.md": "no",
        "d.py": "no",
        "e.parquet.txt": "four",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    log = Log()
    assert read_documents(str(tmp_path), Reading(render, log)) == ["one", "two", "three", "four"]
    assert log.lines == [f"{tmp_path}: left out .git/notes.md, .hidden.txt, d.py, image.png"]
    (tmp_path / "z.json").write_text(rows({"version": 1}))
    with pytest.raises(UserError, match=r"z\.json has no `text`"):
        read_documents(str(tmp_path))


def test_c4_a_folder_without_text_names_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"holds no text, but image\.png"):
        read_documents(str(tmp_path))


def test_c4_columns_chats_and_empty_documents_are_told(tmp_path: Path) -> None:
    log = Log()
    read(tmp_path / "x.jsonl", rows({"body": "a"}, {"text": ""}, {"text": "b"}, {"messages": CHAT}), log)
    assert log.lines[0].endswith("rows by their `body`: 1, rows as chats, by the model's template: 1")
    assert f"{tmp_path}/x.jsonl: 1 of 4 documents are empty, left out" in log.lines


def test_c4_a_chat_is_marked_as_one(tmp_path: Path) -> None:
    (chat,) = read(tmp_path / "x.jsonl", rows({"messages": CHAT}))
    assert isinstance(chat, ChatText)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"])
def test_c5_only_a_line_feed_ends_a_line(tmp_path: Path, separator: str) -> None:
    line = json.dumps({"text": f"a{separator}b"}, ensure_ascii=separator < " ")
    assert read(tmp_path / "x.jsonl", line + "\r\n") == [f"a{separator}b"]
    with pytest.raises(UserError, match=r"line 4 of .*x\.jsonl is not JSON"):
        read(tmp_path / "x.jsonl", f"{line}\n\n{line}\n{{bad\n")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.txt", "one"),
        ("x.jsonl", '{"text": "one"}'),
        ("x.json", '[{"text": "one"}]'),
        ("x.csv", "text\none\n"),
    ],
)
def test_c5_a_byte_order_mark_is_no_text(tmp_path: Path, name: str, content: str) -> None:
    assert read(tmp_path / name, "\ufeff" + content) == ["one"]


def test_a_list_names_what_is_missing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("one")
    with pytest.raises(UserError, match=r"there is no file b\.txt"):
        read_documents("a.txt,b.txt")
    Path("a.txt,b.txt").write_text("a name with a comma")
    assert read_documents("a.txt,b.txt") == ["a name with a comma"]
