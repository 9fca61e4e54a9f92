"""Calibration text: from files, folders and the model itself, as windows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lathe.artefact.errors import UserError
from lathe.compressor.calibration import Calibration, load_calibration, token_windows
from lathe.compressor.calibration.selfgen import continue_text
from lathe.compressor.calibration.sources import parts_of, read_documents
from lathe.compressor.calibration.tokens import fair_shares, load_tokenizer, read_calibration
from lathe.compressor.compute.progress import Progress
from lathe.compressor.model.checkpoint import Checkpoint, open_checkpoint
from support.tiny_server import save_checkpoint

WORDS = "The quick brown fox jumps over the lazy dog. " * 40


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(str(save_checkpoint(tmp_path_factory.mktemp("model") / "tiny")))


def load(
    source: Checkpoint, argument: str, tokens: int = 200, window: int = 32, seed: int = 0
) -> Calibration:
    text = read_calibration(source, argument, tokens=tokens, window=window, seed=seed)
    return load_calibration(source, text, seed=seed, progress=Progress(quiet=True))


def test_files_and_folders_can_be_listed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one<|doc|>two")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "b.txt").write_text("three")
    assert read_documents(f"{tmp_path}/a.txt,{tmp_path}/more") == ["one", "two", "three"]
    with pytest.raises(UserError, match="there is no"):
        read_documents(f"{tmp_path}/a.txt,{tmp_path}/none.txt")


def test_a_comma_at_the_end_names_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here.txt").write_text("of the working directory")
    (tmp_path / "notes.md").write_text("asked for")
    monkeypatch.chdir(tmp_path)
    assert parts_of("notes.md,") == ["notes.md"]
    assert read_documents("notes.md,") == ["asked for"]


def test_c3_a_text_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for name in ("a.txt", "b.txt", "more/c.txt"):
        (tmp_path / name).write_text("one")
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.txt")
    for one, other in (
        ("a.txt", "a.txt"),
        ("a.txt", "link.txt"),
        ("a.txt", "more/../a.txt"),
        ("more", "more/c.txt"),
        ("more/c.txt", "more"),
    ):
        with pytest.raises(UserError, match=f"the same text twice, as .*{one} and as .*{other}"):
            parts_of(f"{tmp_path}/b.txt,{tmp_path}/{one},{tmp_path}/{other}")
    assert len(parts_of(f"{tmp_path}/a.txt,{tmp_path}/b.txt,{tmp_path}/more")) == 3


def test_a_file_holds_documents_between_separators(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("one\n<|doc|>\ntwo <|doc|>\n\n<|doc|>三")
    assert [d.strip() for d in read_documents(str(tmp_path / "text.txt"))] == ["one", "two", "三"]


def test_jsonl_holds_one_document_a_line(tmp_path: Path) -> None:
    lines = [json.dumps({"text": "one\ntwo", "id": 1}), "", json.dumps({"text": "three"})]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    assert read_documents(str(tmp_path / "text.jsonl")) == ["one\ntwo", "three"]


def test_a_folder_is_read_in_order_and_only_its_text(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "z.txt").write_text("last")
    (tmp_path / "a.md").write_text("first")
    (tmp_path / "b" / "c.jsonl").write_text('{"text": "middle"}')
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    assert read_documents(str(tmp_path)) == ["first", "middle", "last"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "empty.txt is empty"),
        ("blank.txt", b" \n\n<|doc|> ", "blank.txt is empty"),
        ("binary.txt", b"\xff\xfe\x00\x80", "cannot read .*binary.txt as UTF-8"),
        ("bad.jsonl", b'{"text": "a"}\n{"words": 1}', "line 2 of .*bad.jsonl"),
        ("list.jsonl", b"[1]", "line 1 of .*list.jsonl"),
        ("torn.jsonl", b'{"text": "a', "line 1 of"),
    ],
)
def test_files_without_text_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_documents(str(tmp_path / name))


@pytest.mark.parametrize("argument", ["no-such-file.txt", "./nowhere", "/no/where", "a/b/c/d"])
def test_texts_that_are_not_there_are_named(argument: str) -> None:
    with pytest.raises(UserError, match=argument):
        read_documents(argument)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is empty"):
        read_documents(str(tmp_path))


def test_windows_are_the_tokens_of_the_text_in_order(tmp_path: Path, source: Checkpoint) -> None:
    (tmp_path / "text.txt").write_text(WORDS + "<|doc|>" + WORDS)
    windows = token_windows(source, str(tmp_path / "text.txt"), 32)
    tokenizer = load_tokenizer(source)
    ids = 2 * tokenizer(WORDS)["input_ids"]
    assert windows.flatten().tolist() == ids[: len(ids) // 32 * 32]


def test_one_window_in_eight_is_held_out_and_none_is_in_both(tmp_path: Path, source: Checkpoint) -> None:
    (tmp_path / "text.txt").write_text("".join(f"{i} is followed by {i + 1}. " for i in range(2000)))
    found = load(source, str(tmp_path / "text.txt"), tokens=32 * 14)
    assert found.fit.shape == (14, 32)
    assert found.heldout.shape == (2, 32)
    assert not {tuple(row) for row in found.fit.tolist()} & {tuple(row) for row in found.heldout.tolist()}


def test_several_texts_give_equal_shares_whatever_their_sizes(tmp_path: Path, source: Checkpoint) -> None:
    (tmp_path / "long.txt").write_text("".join(f"{i} comes before {i + 1}. " for i in range(4000)))
    (tmp_path / "short.txt").write_text("".join(f"fox {i} and dog {i}. " for i in range(400)))
    found = load(source, f"{tmp_path}/long.txt,{tmp_path}/short.txt", tokens=32 * 14)
    short = {tuple(row) for row in token_windows(source, str(tmp_path / "short.txt"), 32).tolist()}
    for windows in (found.fit, found.heldout):
        assert sum(tuple(row) in short for row in windows.tolist()) == len(windows) // 2


@pytest.mark.parametrize(
    ("sizes", "wanted", "shares"),
    [([9, 9], 6, [3, 3]), ([9, 1, 9], 9, [4, 1, 4]), ([2, 2], 9, [2, 2]), ([5], 3, [3]), ([9, 9], 5, [3, 2])],
)
def test_what_a_small_text_lacks_the_others_give(sizes: list[int], wanted: int, shares: list[int]) -> None:
    assert sorted(fair_shares(sizes, wanted)) == sorted(shares)
    assert all(share <= size for share, size in zip(fair_shares(sizes, wanted), sizes, strict=True))


def test_windows_are_no_longer_than_the_models_positions(source: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(WORDS * 20)
    assert load(source, str(tmp_path / "text.txt"), tokens=2000, window=4096).fit.shape[1] == 512


def test_too_little_text_is_named(tmp_path: Path, source: Checkpoint) -> None:
    (tmp_path / "short.txt").write_text("Just a few words.")
    with pytest.raises(UserError, match=r"short\.txt gives 0 windows of 32 tokens"):
        load(source, str(tmp_path / "short.txt"))


def test_the_models_own_text_repeats_by_seed_and_is_in_its_vocabulary(source: Checkpoint) -> None:
    first, again, other = load(source, "self"), load(source, "self"), load(source, "self", seed=1)
    assert torch.equal(first.fit, again.fit)
    assert torch.equal(first.heldout, again.heldout)
    assert not torch.equal(first.fit, other.fit)
    assert first.fit.shape == (7, 32)
    assert 0 <= int(first.fit.min()) <= int(first.fit.max()) < source.shape.vocab_size
    assert first.fit[:, 0].tolist() == [0] * 7


def test_the_model_goes_on_from_passages_of_the_windows(source: Checkpoint) -> None:
    windows = torch.arange(3 * 40).view(3, 40) % source.shape.vocab_size

    def go_on(seed: int) -> list[list[int]]:
        return continue_text(source, windows, seed=seed, progress=Progress(quiet=True)).tolist()

    first = go_on(0)
    assert first == go_on(0) != go_on(1)
    for written, window in zip(first, windows.tolist(), strict=True):
        assert len(written) == 40
        assert any(written[:10] == window[at : at + 10] for at in range(30))


def test_a_checkpoint_without_a_tokenizer_is_named(tmp_path: Path, source: Checkpoint) -> None:
    for file in source.path.iterdir():
        if "token" not in file.name and "chat" not in file.name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="tokenizer"):
        load_tokenizer(open_checkpoint(str(tmp_path)))
