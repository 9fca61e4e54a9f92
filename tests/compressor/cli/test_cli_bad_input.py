"""Bad input: one sentence on stderr, status 1, no traceback, nothing written, nothing harmed."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import Result
from safetensors.torch import load_file, save_file

from support.compress_command import Tiny, lathe
from support.tiny_models import tiny as tiny_family

pytestmark = pytest.mark.usefixtures("steady")


def one_sentence(done: Result, *words: str) -> None:
    assert done.exit_code == 1, done.output
    assert not done.stdout
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    for word in words:
        assert word in done.stderr


@pytest.fixture
def model(tiny: Tiny, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.model, tmp_path / "model"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--target-latency", "banana"), "`banana` is not a time"),
        (("--target-latency", "30"), "the unit is missing"),
        (("--target-latency", "-1ms"), "`-1ms` is not a time"),
        (("--target-latency", ""), "no target"),
        (("--target-speedup", "warp"), "`warp` is not a speed-up"),
        (("--target-speedup", "0.5x"), "at least 1x"),
        (("--target-memory", "6"), "not a memory size"),
        (("--keep", "0%"), "not a share"),
        (("--keep", "140%"), "not a share"),
        ((), "no target is given"),
        (("--target-latency", "3ms", "--target-speedup", "2x"), "exclude each other"),
        (("--keep", "60%", "--method", "magic"), "there is no method `magic`"),
        (("--keep", "60%", "--backend", "abacus"), "there is no backend `abacus`"),
        (("--keep", "60%", "--latency-metric", "fps"), "there is no latency metric `fps`"),
        (("--keep", "60%", "--threads", "0"), "--threads 0"),
        (("--keep", "60%", "--tensor-parallel", "0"), "--tensor-parallel 0 is not a number of devices"),
        (("--keep", "60%", "--tensor-parallel", "3"), "can be served with --tensor-parallel 1, 2, 4."),
        (
            ("--keep", "60%", "--for", "abacus"),
            "Known: checkpoint, genai, genai-int4, genai-int8, genai-mixed, gguf, gguf-bf16, ",
        ),
        (("--keep", "60%", "--quantize", "int3"), "there is no exporter `onnx-int3`"),
        (("--keep", "60%", "--export", "checkpoint,onnx,onnx-int4"), "not onnx and onnx-int4"),
        (("--front", "--export", "checkpoint"), "--front on onnx needs that export"),
        (
            ("--target-speedup", "2x", "--bits", "auto", "--backend", "vllm"),
            "Leave one of them out. For vLLM, `lathe export OUT --to vllm --quantize mixed --plan FILE` ",
        ),
        (
            ("--keep", "60%", "--bits", "4", "--export", "checkpoint,vllm"),
            "--bits 4 is for the ONNX graph, not for vllm",
        ),
        (
            ("--keep", "60%", "--quantize", "int8", "--export", "checkpoint,vllm"),
            "int8 is for the ONNX graph, not",
        ),
        (("--target-speedup", "2x", "--bits", "3"), "--bits 3 is unknown. Choose of auto, 16, 8, 4."),
        (
            ("--target-speedup", "2x", "--bits", "1"),
            "--bits 1 cannot be served: ONNX Runtime, vLLM and PyTorch",
        ),
        (("--keep", "60%", "--quantize", "b1"), "`lathe export MODEL --to checkpoint --quantize b1` writes"),
        (("--target-speedup", "2x", "--bits", ""), "--bits is unknown. Choose of auto, 16, 8, 4."),
        (("--target-speedup", "2x", "--bits", "auto", "--quantize", "int8"), "Give one of them."),
        (("--target-speedup", "2x", "--bits", "8", "--quantize", "int4"), "--quantize int4 differ"),
        (
            ("--target-memory", "1MiB", "--bits", "auto", "--export", "checkpoint"),
            "graph or the GGUF file. Add",
        ),
        (("--keep", "60%", "--bits", "auto"), "--keep counts parameters, and --bits auto keeps them all."),
        (("--front", "--bits", "auto", "--backend", "torch"), "not for --backend torch."),
        (("--front", "--bits", "auto", "--backend", "vllm"), "not for --backend vllm."),
        (("--front", "--bits", "auto", "--export", "checkpoint,onnx,vllm"), "not for vllm."),
        (("--target-speedup", "2x", "--bits", "auto", "--method", "paper"), "searches widths alone"),
        (
            ("--target-speedup", "2x", "--bits", "auto", "--method", "policy-gradient"),
            "--method policy-gradient searches widths alone",
        ),
        (("--target-speedup", "2x", "--bits", "auto", "--method", "gisp"), "gisp searches widths alone"),
        (("--front", "--method", "policy-gradient"), "searches for one budget, and --front gives it none"),
        (("--front", "--method", "gisp"), "gisp searches for one budget, and --front gives it none"),
        (("--plan", "plan.json", "--method", "grasprune"), "grasprune searches for one budget, and --plan"),
        (("--max-perplexity-increase", "5%", "--method", "policy-gradient"), "gives it none"),
        (("--plan", "plan.json", "--method", "policy-gradient"), "and --plan gives it none"),
        (
            ("--front", "--method", "evopress"),
            "--method evopress searches for one budget, and --front gives it none",
        ),
        (("--max-perplexity-increase", "5%", "--method", "tyr"), "increase gives it none. Give a target of"),
        (("--plan", "plan.json", "--method", "tyr"), "--method tyr searches for one budget, and --plan"),
        (
            ("--target-memory", "1MiB", "--bits", "auto", "--method", "evopress"),
            "--method evopress searches widths alone. Leave --bits or --method out.",
        ),
        (
            ("--keep", "60%", "--quantize", "int4", "--group-size", "48"),
            "--group-size 48 is unknown. Choose of auto, adaptive, 32, 64, 128, 256.",
        ),
        (("--keep", "60%", "--group-size", "64"), "--group-size 64 is for rounded weights of an ONNX graph"),
        (("--keep", "60%", "--bits", "16", "--group-size", "64"), "is for rounded weights of an ONNX graph"),
        (
            ("--keep", "60%", "--export", "checkpoint", "--quantize", "int4", "--group-size", "adaptive"),
            "--group-size adaptive is for rounded weights of an ONNX graph",
        ),
        (
            ("--target-speedup", "2x", "--bits", "8", "--group-size", "64", "--profile", "p.json"),
            "the latencies of --profile are those of --group-size auto, not of 64",
        ),
        (("--keep", "60%", "--seed", "-1"), "--seed -1"),
        (("--keep", "60%", "--seed", str(2**70)), "is not a seed"),
        (("--keep", "60%", "--tolerance", "nan"), "--tolerance nan"),
        (("--keep", "60%", "--evaluations", "0"), "--evaluations 0"),
        (("--keep", "60%", "--calibration-tokens", "10"), "--calibration-tokens 10"),
        (("--keep", "60%", "--context", "512"), "does not fit the model's 512 positions"),
        (("--keep", "60%", "--batch-size", "0"), "at least 1"),
        (("--keep", "60%", "--calibration", "nowhere.txt"), "nowhere.txt"),
        (("--keep", "60%", "--evaluation", "nowhere.txt"), "nowhere.txt"),
        (("--keep", "1%"), "below the floor"),
        (("--target-memory", "10kB"), "below the floor"),
    ],
)
def test_options(tiny: Tiny, tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    one_sentence(tiny.compress(tmp_path / "out", *options), words)
    assert not list(tmp_path.iterdir())


def with_plan(tiny: Tiny, tmp_path: Path, changes: dict[str, object], *options: str) -> Result:
    """Gives the dense plan with these changes of its first layer, or of `head_bits`, or of `layers`."""
    config = json.loads((tiny.model / "config.json").read_text())
    widths = ("num_attention_heads", "num_key_value_heads", "intermediate_size")
    dense = dict(zip(("query_heads", "kv_heads", "ffn"), (config[name] for name in widths), strict=True))
    whole = {name: changes[name] for name in ("head_bits", "layers") if name in changes}
    first = {name: value for name, value in changes.items() if name not in whole}
    plan = {"format": "lathe-plan/1", "layers": [dense | first, dense]} | whole
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    return tiny.compress(tmp_path / "out", "--plan", str(tmp_path / "plan.json"), *options)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attention_bits": 3}, "a layer's attention block cannot have 3 bits"),
        ({"ffn_bits": 16}, "a layer's ffn block cannot have 16 bits"),
        ({"ffn": 0, "ffn_bits": 8}, "a layer's ffn block cannot have 8 bits"),
        ({"attention_bits": "8"}, "the plan's `attention_bits` is '8'. Write a whole number."),
        ({"attention_bits": [8]}, "the plan's `attention_bits` is [8]"),
        ({"ffn_bits": 8.0}, "the plan's `ffn_bits` is 8.0"),
        ({"ffn": True}, "the plan's `ffn` is True"),
        ({"head_bits": "8"}, "the plan's `head_bits` is '8'"),
        ({"head_bits": None}, "the plan's `head_bits` is None"),
        ({"head_bits": 3}, "embedding and head cannot have 3 bits"),
        ({"bits": 8}, "the plan's layers are malformed"),
        ({"layers": 5}, "the plan's layers are malformed"),
        ({"layers": [5, 5]}, "the plan's layers are malformed"),
        (
            {"layers": [{"query_heads": 4, "kv_heads": 2, "ffn": 96, "ffn_bits": 8}]},
            "has 1 layers; the model",
        ),
    ],
)
def test_plans_with_bits(tiny: Tiny, tmp_path: Path, changes: dict[str, object], words: str) -> None:
    one_sentence(with_plan(tiny, tmp_path, changes, "--bits", "auto"), words)
    assert {entry.name for entry in tmp_path.iterdir()} == {"plan.json"}


@pytest.mark.parametrize("options", [(), ("--bits", "8"), ("--quantize", "int4")])
@pytest.mark.parametrize("changes", [{"attention_bits": 8}, {"ffn_bits": 4}, {"head_bits": 8}])
def test_a_plan_with_bits_is_written_with_bits_only(
    tiny: Tiny, tmp_path: Path, changes: dict[str, object], options: tuple[str, ...]
) -> None:
    one_sentence(with_plan(tiny, tmp_path, changes, *options), "plan.json rounds weights. Give --bits auto")


def test_masks_do_not_stand_for_experts(tmp_path: Path) -> None:
    model = tiny_family(tmp_path, "mixtral", "untied", "one file").model
    asked = ("-o", str(tmp_path / "out"), "--keep", "60%", "--method", "policy-gradient")
    done = lathe("compress", str(model), *asked)
    one_sentence(done, "--method policy-gradient is not for mixtures of experts")


def test_experts_are_not_rounded_block_by_block(tmp_path: Path) -> None:
    model = tiny_family(tmp_path, "mixtral", "untied", "one file").model
    done = lathe("compress", str(model), "-o", str(tmp_path / "out"), "--front", "--bits", "auto")
    one_sentence(done, "has experts, which onnx-mixed does not take", "--quantize int8 or --quantize int4")


BAD_MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (shutil.rmtree, "no model directory"),
    "unknown type": (lambda p: edit(p / "config.json", model_type="mamba9"), "`mamba9` is not supported"),
    "truncated": (lambda p: cut(p / "model.safetensors", 100_000), "truncated or corrupt"),
    "corrupt": (lambda p: (p / "model.safetensors").write_bytes(b"\xff" * 5000), "truncated or corrupt"),
    "no tokenizer": (lambda p: [f.unlink() for f in p.glob("*token*")], "cannot load the tokenizer"),
    "odd activation": (lambda p: edit(p / "config.json", hidden_act="gelu"), "`hidden_act` gelu"),
    "odd rope": (lambda p: edit(p / "config.json", rope_parameters=3), "config.json"),
}


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_models(tiny: Tiny, model: Path, tmp_path: Path, kind: str) -> None:
    damage, words = BAD_MODELS[kind]
    damage(model)
    one_sentence(Tiny(model, tiny.text).compress(tmp_path / "out", "--keep", "60%"), words)
    assert {entry.name for entry in tmp_path.iterdir()} <= {"model"}


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\x00\x00binary"])
def test_calibration_files(tiny: Tiny, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "text.txt").write_bytes(content)
    damaged = Tiny(tiny.model, tmp_path / "text.txt")
    one_sentence(damaged.compress(tmp_path / "out", "--keep", "60%"), "text.txt")


def test_too_short_an_evaluation_text_is_refused_at_the_start(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("few words")
    done = tiny.compress(tmp_path / "out", "--keep", "60%", "--evaluation", str(tmp_path / "short.txt"))
    one_sentence(done, "short.txt is shorter than one window of 512 tokens")


@pytest.mark.parametrize("out", ["/proc/lathe-out", "model/config.json/out", ".", ".."])
def test_outputs_that_cannot_be_written(tiny: Tiny, model: Path, tmp_path: Path, out: str) -> None:
    before = {file: file.read_bytes() for file in model.iterdir()}
    done = Tiny(model, tiny.text).compress(tmp_path / out, "--keep", "60%", "--overwrite")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "out" in done.stderr
    assert {file: file.read_bytes() for file in model.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "floor"),
    [
        (("--target-latency", "1.5ms"), "the smallest subnet (one narrow attention block) 1.65 ms"),
        (("--target-speedup", "50x"), "Ask for at least 1.8 ms"),
        (("--target-memory", "83kB"), "the smallest subnet has"),
        (("--keep", "2%"), "Ask for at least"),
    ],
)
def test_impossible_targets_name_the_floor_before_a_weight_is_read(
    tiny: Tiny, model: Path, tmp_path: Path, options: tuple[str, ...], floor: str
) -> None:
    weights = load_file(model / "model.safetensors")
    save_file({name: value * float("nan") for name, value in weights.items()}, model / "model.safetensors")
    broken = Tiny(model, tiny.text)
    done = broken.compress(tmp_path / "out", *options)
    assert done.exit_code == 1
    assert floor in done.stderr.splitlines()[-1]
    assert {entry.name for entry in tmp_path.iterdir()} == {"model"}
    possible = broken.compress(tmp_path / "out", "--keep", "60%")
    assert possible.exit_code == 1
    assert "NaN or infinity" in possible.stderr


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Writing more than `size` bytes to a file fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [4_000, 100_000, 250_000])
def test_a_disk_that_fills_up_is_named_and_harms_nothing(tiny: Tiny, tmp_path: Path, size: int) -> None:
    out = tmp_path / "out"
    with files_up_to(size):
        done = tiny.compress(out, "--keep", "90%")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith("error: cannot write ")
    assert "File too large" in done.stderr
    assert {entry.name for entry in tmp_path.iterdir()} == {"out.run"}
    assert tiny.compress(out, "--keep", "90%").exit_code == 0


def test_a_disk_without_room_is_refused_before_the_run(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**7, 10**7 - 5, 5))
    done = tiny.compress(tmp_path / "out", "--keep", "60%")
    one_sentence(done, f"{tmp_path} has 0 MiB free", "this run may need")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("evaluate", "nowhere", "--text", "x"), "nowhere is not a checkpoint directory"),
        (("inspect", "nowhere"), "nowhere has no readable report.json"),
        (("export", "nowhere", "-o", "out"), "no model directory nowhere"),
        (("serve", "nowhere"), "nowhere is not a directory"),
    ],
)
def test_other_commands(
    tmp_path: Path, arguments: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one_sentence(lathe(*arguments), words)
    assert not list(tmp_path.iterdir())


def test_the_installed_command_prints_one_line_and_a_traceback_only_when_asked(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "compress"), "nowhere", "--target-latency", "banana"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: `banana` is not a time. Write it like 30ms, 0.5s or 250us.\n"
    asked = subprocess.run([*command, "--debug"], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert asked.returncode == 1
    assert "Traceback" in asked.stderr


@pytest.mark.parametrize(
    "arguments", [("families",), ("export", "m", "-o", "o"), ("evaluate", "m", "--text", "t")]
)
def test_where_only_the_server_is_installed(arguments: tuple[str, ...], tmp_path: Path) -> None:
    program = "import sys; sys.modules['torch'] = None; from lathe.cli import lathe; lathe()"
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: there is no PyTorch here")
    assert done.stderr.count("\n") == 1
