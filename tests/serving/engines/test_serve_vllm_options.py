"""What `lathe serve --engine vllm` decides before vLLM starts; the rest is in tests/on_vllm."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from compressor.errors import UserError
from serving.artefact import open_checkpoint
from serving.engines.registry import ServeOptions, serve_with
from serving.engines.vllm.arguments import arguments, environment
from serving.engines.vllm.board import Board, Counts, Served
from serving.engines.vllm.engine import check_draft, check_model, check_options

OPTIONS = ServeOptions(
    host="127.0.0.1", port=0, device=None, threads=None, max_batch=None, max_length=None, max_queue=64,
    prefix_cache=None,
    served_model_names=(), api_key=None, allowed_origins=(), drain_timeout=1.0, request_timeout=None,
    write_timeout=None, metrics_alias=None, playground=True, compare=None, compare_api_key=None, draft=None,
    draft_tokens=3, engine_args=(), announce=lambda url, model: None,
)  # fmt: skip
SERVED = Served(
    "m", 30.0, "tpot", {"model": "m"}, values=10, other_bytes=2, kv_values=4,
    dense_weights=2.0, dense_kv=None, key=None, origins=[],
)  # fmt: skip


def line(**changes: object) -> list[str]:
    return arguments(Path("out"), ["m", "alias"], 8000, replace(OPTIONS, **changes))


def test_the_queue_is_bounded_and_what_the_user_gives_wins() -> None:
    given = line(max_batch=4, max_queue=6, max_length=128, engine_args=("--max-num-seqs", "2"))
    assert given[given.index("--max-num-queued-reqs") + 1] == "10"
    assert given[given.index("--max-model-len") + 1] == "128"
    at = given.index("--served-model-name")
    assert given[at + 1 : at + 4] == ["m", "alias", "--host"]
    assert given[-2:] == ["--max-num-seqs", "2"]


@pytest.mark.parametrize(
    ("kind", "rope", "longest"),
    [("lathe_gemma", "linear", 4096), ("lathe_llama", "linear", None), ("lathe_llama", "dynamic", 4096)],
)
def test_positions_are_not_multiplied_that_are_scaled_already(
    tmp_path: Path, kind: str, rope: str, longest: int | None
) -> None:
    config = {"model_type": kind, "max_position_embeddings": 4096, "rope_parameters": {"rope_type": rope}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    given = arguments(tmp_path, ["m"], 8000, OPTIONS)
    assert ("--max-model-len" in given) == (longest is not None)
    assert longest is None or given[given.index("--max-model-len") + 1] == str(longest)


def test_a_draft_is_a_speculative_config() -> None:
    given = line(draft=Path("small"), draft_tokens=5)
    assert json.loads(given[given.index("--speculative-config") + 1]) == {
        "method": "draft_model", "model": "small", "num_speculative_tokens": 5,
    }  # fmt: skip


@pytest.mark.parametrize("argument", ["--api-key", "--port=1", "--served_model_name", "--allowed-origins"])
def test_arguments_that_lathe_has_to_know_of_are_refused(argument: str) -> None:
    with pytest.raises(UserError, match="before the --"):
        line(engine_args=(argument, "x"))


@pytest.mark.parametrize("changes", [{"device": "cuda"}, {"prefix_cache": 128}, {"write_timeout": 3.0}])
def test_options_of_the_onnx_engine_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"--{next(iter(changes)).replace('_', '-')}"):
        check_options(replace(OPTIONS, **changes))


def test_the_users_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")
    monkeypatch.setenv("VLLM_PLUGINS", "other")
    found = environment(threads=3)
    assert found["VLLM_LOGGING_LEVEL"] == "INFO"
    assert found["VLLM_PLUGINS"] == "other,lathe"
    assert found["OMP_NUM_THREADS"] == "3"


def test_s4_idle_connections_stay_on_vllm_too(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "VLLM_HTTP_TIMEOUT_KEEP_ALIVE"
    monkeypatch.delenv(name, raising=False)
    assert environment(threads=None)[name] == "75"
    monkeypatch.setenv(name, "33")
    assert environment(threads=None)[name] == "33"
    assert environment(threads=None, keep_alive=120)[name] == "120"


def test_the_board(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.publish(SERVED)
    board.expect(2)
    assert board.served() == SERVED
    counts = Counts(board)
    counts.set_ready()
    counts.begin()
    assert not board.ready  # the other API server is not
    assert board.in_flight == 1
    board.expect(1)
    counts.end()
    assert board.ready
    assert board.in_flight == 0
    assert (board.draining, board.ending, board.failure) == (False, False, None)
    board.stop_accepting()
    board.end_answers()
    board.fail("why")
    assert (board.draining, board.ending, board.failure) == (True, True, "why")


def test_a_model_that_vllm_cannot_run_is_refused_before_it_starts(artefact_dir: Path) -> None:
    """Heads of size 16, for which vLLM's CPU build has no kernel."""
    artefact = open_checkpoint(artefact_dir.parents[2] / "tiny")
    with pytest.raises(UserError, match="heads of size 16"):
        check_model(artefact)
    fitting = replace(artefact, head_dim=64)
    with pytest.raises(UserError, match="a vocabulary of 9 tokens"):
        check_draft(fitting, replace(fitting, vocab_size=9))
    check_draft(fitting, fitting)


def test_sizes_of_a_checkpoint(artefact_dir: Path) -> None:
    artefact = open_checkpoint(artefact_dir.parents[2] / "tiny")
    values, other = artefact.weights()
    weights = (artefact.path / "model.safetensors").stat().st_size
    assert 4 * values == pytest.approx(weights, rel=0.02)
    assert other == 0
    assert artefact.kv_values == 2 * 2 * 2 * 16  # keys and values, layers, KV heads, head size


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_one_sentence_says_how_to_get_it(artefact_dir: Path) -> None:
    with pytest.raises(UserError, match=r"not installed.*lathe\[vllm\]"):
        serve_with("vllm", artefact_dir, OPTIONS)


def test_the_onnx_engine_refuses_what_is_vllms(artefact_dir: Path) -> None:
    for changes in ({"draft": artefact_dir}, {"engine_args": ("--enforce-eager",)}):
        with pytest.raises(UserError, match="for --engine vllm"):
            serve_with("onnx", artefact_dir, replace(OPTIONS, **changes))
