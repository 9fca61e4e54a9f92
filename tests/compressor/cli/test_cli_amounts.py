"""How much is read, and how long what is timed is: what is used is told, and no default is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from support.compress_command import Tiny, lathe, make_tiny

pytestmark = pytest.mark.usefixtures("steady")
QUICK = ("--keep", "70%", "--method", "quick", "--export", "checkpoint")


def words(path: Path, count: int) -> Path:
    path.write_text("".join(f"The {i}th fox jumps over {i * 7 % 100} lazy dogs. " for i in range(count)))
    return path


def compress(model: Path, out: Path, *options: str) -> Result:
    return lathe("compress", str(model), *QUICK, "-o", str(out), *options)


def refused(done: Result, *said: str) -> None:
    assert done.exit_code == 1, done.output
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    for word in said:
        assert word in line


def test_c3_what_a_short_text_gave_is_warned_of_and_reported(tiny: Tiny, tmp_path: Path) -> None:
    short = words(tmp_path / "short.txt", 90)
    done = compress(tiny.model, tmp_path / "out", "--calibration", str(short))
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    used = report["calibration"]
    assert used["asked_tokens"] == 65_536
    assert 512 <= used["tokens"] < 4096
    assert used["tokens"] % 512 == used["heldout_tokens"] % 512 == 0
    assert used["parts"] == [{"text": str(short), "tokens": used["tokens"] + used["heldout_tokens"]}]
    (warning,) = [line for line in report["warnings"] if "were asked for" in line]
    assert f"has {used['tokens']:,} tokens to fit on" in warning
    assert f"warning: {warning}\n" in done.stderr
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"{used['tokens']:,} tokens of {short} (65,536 asked for)" in page
    assert f"calibrated on {used['tokens']:,} tokens of" in done.stdout.replace("\n", " ")
    assert lathe("inspect", str(tmp_path / "out")).exit_code == 0


def test_c3_a_short_part_of_a_list_is_named(tiny: Tiny, tmp_path: Path) -> None:
    short = words(tmp_path / "short.txt", 45)
    texts = f"{tiny.text},{short}"
    done = compress(
        tiny.model,
        tmp_path / "out",
        "--calibration",
        texts,
        "--calibration-tokens",
        "4096",
        "--dry-run",
        "--json",
    )
    preflight = json.loads(done.stdout)
    assert [part["tokens"] for part in preflight["calibration"]["parts"]] == [9 * 512, 512]
    assert any(f"{short} has only 512 tokens" in line for line in preflight["warnings"])
    tiny_part = words(tmp_path / "tiny.txt", 1)
    done = compress(tiny.model, tmp_path / "out", "--calibration", f"{tiny.text},{tiny_part}")
    refused(done, f"{tiny_part} is shorter than one window of 512 tokens", "leave it out")


@pytest.mark.parametrize("count", [1, 20, 45])
def test_c3_too_little_text_is_refused(tiny: Tiny, tmp_path: Path, count: int) -> None:
    done = compress(tiny.model, tmp_path / "out", "--calibration", str(words(tmp_path / "short.txt", count)))
    refused(done, "short.txt", "at least 1,024 tokens are needed")
    assert {entry.name for entry in tmp_path.iterdir()} == {"short.txt"}


def test_c3_the_plan_tells_it_too(tiny: Tiny, tmp_path: Path) -> None:
    short = words(tmp_path / "short.txt", 90)
    done = lathe("plan", str(tiny.model), "--no-latency", "--calibration", str(short), "--json")
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    assert plan["card"]["calibration"]["tokens"] < 4096
    assert any("were asked for" in line for line in plan["card"]["warnings"])


def test_c3_a_short_evaluation_text_is_told(tiny: Tiny, tmp_path: Path) -> None:
    short = words(tmp_path / "short.txt", 90)
    options = ("--calibration", str(tiny.text), "--calibration-tokens", "2048", "--dry-run", "--json")
    done = compress(tiny.model, tmp_path / "out", *options, "--evaluation", str(short))
    warnings = json.loads(done.stdout)["warnings"]
    assert any(f"{short} fills " in line and "of 32 windows" in line for line in warnings)
    done = lathe("evaluate", str(tiny.model), "--text", str(short), "--windows", "50", "--json")
    assert done.exit_code == 0, done.output
    assert "warning: " in done.stderr
    assert "--windows asked for 50" in done.stderr


def test_c4_chats_are_read_by_the_models_template(tiny: Tiny, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "fox " * 40}, {"role": "assistant", "content": "dog " * 40}]
    file = tmp_path / "chats.JSONL"
    file.write_text("\n".join(json.dumps({"messages": chat}) for _ in range(40)))
    options = ("--calibration-tokens", "2048", "--dry-run")
    done = compress(tiny.model, tmp_path / "out", "--calibration", str(file), *options)
    assert done.exit_code == 0, done.output
    assert "chats.JSONL: rows as chats, by the model's template: 40" in done.stderr.replace("\n", "")
    (row,) = json.loads(lathe("evaluate", str(tiny.model), "--text", str(file), "--json").stdout)
    assert row["tokens"] > 0
    model = Path(shutil.copytree(tiny.model, tmp_path / "plain"))
    (model / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((model / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    for done in (
        compress(model, tmp_path / "out", "--calibration", str(file), *options),
        compress(model, tmp_path / "out", "--calibration", "self", "--evaluation", str(file), *options),
        lathe("evaluate", str(model), "--text", str(file)),
    ):
        refused(done, f"line 1 of {file} is a chat, and the model's tokenizer has no chat template")


@pytest.mark.parametrize("option", ["--calibration", "--evaluation"])
def test_c4_a_row_without_text_is_refused_everywhere(tiny: Tiny, tmp_path: Path, option: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(json.dumps([{"text": "a " * 5000}, {"text": None}]))
    refused(compress(tiny.model, tmp_path / "out", option, str(file)), f"item 2 of {file}: `text` is null")
    refused(lathe("evaluate", str(tiny.model), "--text", str(file)), f"item 2 of {file}: `text` is null")
    assert {entry.name for entry in tmp_path.iterdir()} == {"x.json"}


def dry(model: Tiny, out: Path, *options: str) -> dict[str, Any]:
    arguments = ("--calibration", str(model.text), "--calibration-tokens", "2048", "--dry-run", "--json")
    done = lathe("compress", str(model.model), "--keep", "70%", "-o", str(out), *arguments, *options)
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("positions", [512, 256, 64])
def test_c14_defaults_are_cut_to_the_models_positions(tmp_path: Path, positions: int) -> None:
    model = make_tiny(tmp_path, max_position_embeddings=positions)
    preflight = dry(model, tmp_path / "out")
    assert preflight["calibration"]["window"] == positions
    assert (
        f"--context is {positions - 1}, not 512: the model has {positions} positions" in preflight["warnings"]
    )
    given = dry(model, tmp_path / "out", "--context", str(positions - 1))
    assert not any("--context" in line for line in given["warnings"])
    for asked in (positions, 4096):
        options = ("--keep", "70%", "-o", str(tmp_path / "out"), "--context", str(asked))
        done = lathe("compress", str(model.model), *options)
        refused(done, f"--context {asked} does not fit the model's {positions} positions", "at most")
    profile = tmp_path / "profile.json"
    arguments = ("profile", str(model.model), "--hardware", "h200", "-o", str(profile))
    assert lathe(*arguments).exit_code == 0
    assert json.loads(profile.read_text())["tables"][0]["workload"]["context"] == positions - 1
    refused(lathe(*arguments, "--overwrite", "--context", str(positions)), "does not fit")


def test_c14_a_whole_request_fits(tmp_path: Path) -> None:
    model = make_tiny(tmp_path, max_position_embeddings=128)
    warnings = dry(model, tmp_path / "out", "--latency-metric", "e2e")["warnings"]
    assert [line for line in warnings if line.startswith("--")] == [
        "--context is 64, not 512: the model has 128 positions",
        "--output-tokens is 64, not 128: the model has 128 positions",
    ]
    done = lathe(
        "compress",
        str(model.model),
        "--keep",
        "70%",
        "-o",
        str(tmp_path / "out"),
        "--latency-metric",
        "e2e",
        "--context",
        "100",
        "--output-tokens",
        "29",
    )
    refused(done, "--context 100 with --output-tokens 29 does not fit the model's 128 positions")
