"""What `lathe serve --engine vllm` decides before vLLM starts; the rest is in tests/on_vllm."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from lathe.artefact.errors import UserError
from lathe.serving.launch.engines.vllm import check_draft, check_model, check_options
from lathe.serving.launch.registry import serve_with
from lathe.serving.options import ServeOptions
from lathe.serving.served_model import open_served_checkpoint
from lathe.serving.vllm.arguments import (
    MIDDLEWARE,
    arguments,
    check_middleware,
    environment,
    request_defaults,
)
from lathe.serving.vllm.shared_state import Counts, ServedModelInfo, SharedState
from support.tiny_server import CHAT_TEMPLATE
from support.tool_models import CODER, SMOLLM, TEMPLATES, save_calling_tokenizer

OPTIONS = ServeOptions(out=Path("m"), port=0, drain_timeout=1.0)
SERVED = ServedModelInfo(
    "m",
    30.0,
    "tpot",
    {"model": "m"},
    values=10,
    other_bytes=2,
    kv_values=4,
    dense_weights=2.0,
    dense_kv=None,
    key=None,
    origins=[],
)


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


@pytest.mark.parametrize(
    ("template", "marks", "parser"),
    [
        (TEMPLATES["hermes"], True, "hermes"),
        (TEMPLATES["llama3_json"], True, "llama3_json"),
        (TEMPLATES["mistral_list"], True, "mistral"),
        (TEMPLATES["mistral_args"], True, "mistral"),
        (TEMPLATES["hermes"], False, None),
        (SMOLLM, True, None),
        (CODER, True, None),
        (CHAT_TEMPLATE, True, None),
    ],
)
def test_vllm_is_told_its_parser_of_the_templates_tool_calls(
    tmp_path: Path, template: str, marks: bool, parser: str | None
) -> None:
    (tmp_path / "config.json").write_text("{}")
    save_calling_tokenizer(tmp_path, template=template, marks=marks)
    given = arguments(tmp_path, ["m"], 8000, OPTIONS)
    assert ("--enable-auto-tool-choice" in given) == (parser is not None)
    assert parser is None or given[given.index("--tool-call-parser") + 1] == parser


def test_a_draft_is_a_speculative_config() -> None:
    given = line(draft=Path("small"), draft_tokens=5)
    assert json.loads(given[given.index("--speculative-config") + 1]) == {
        "method": "draft_model",
        "model": "small",
        "num_speculative_tokens": 5,
    }


def test_c11_what_the_model_recommends_is_given_to_vllm_unless_told_otherwise(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.6, "top_k": 1, "do_sample": true}')
    given = arguments(tmp_path, ["m"], 8000, OPTIONS)
    assert json.loads(given[given.index("--override-generation-config") + 1]) == {
        "temperature": 0.6,
        "top_k": 1,
    }
    plain = replace(OPTIONS, generation_config="none", template_variables={"enable_thinking": False})
    given = arguments(tmp_path, ["m"], 8000, plain)
    assert "--override-generation-config" not in given
    assert given[given.index("--generation-config") + 1] == "vllm"
    assert given[-2:] == ["--default-chat-template-kwargs", '{"enable_thinking": false}']


def test_c11_defaults_of_requests_are_given_and_not_left_to_vllm() -> None:
    assert request_defaults({}, {}) == ["--generation-config", "vllm"]
    given = request_defaults({"temperature": 0.6, "top_k": 1}, {"enable_thinking": False})
    assert given[:3] == ["--generation-config", "vllm", "--override-generation-config"]
    assert json.loads(given[3]) == {"temperature": 0.6, "top_k": 1}
    assert given[4] == "--default-chat-template-kwargs"
    assert json.loads(given[5]) == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("given", "variables", "named"),
    [
        ({"grpc": True}, {}, "--grpc would let requests past the API key"),
        ({"headless": True}, {}, "--headless would"),
        ({"data_parallel_multi_port_external_lb": True}, {}, "--data-parallel-multi-port-external-lb would"),
        ({}, {"VLLM_USE_RUST_FRONTEND": "1"}, r"\$VLLM_USE_RUST_FRONTEND would"),
        ({"api_key": ["k"]}, {}, "--api-key is not for vLLM alone"),
        ({"uds": "/tmp/s"}, {}, "Give `lathe serve` --host and --port"),
    ],
)
def test_nothing_passes_the_middleware_by(
    given: dict[str, object], variables: dict[str, str], named: str
) -> None:
    usual = {"grpc": False, "headless": False, "api_key": None, "uds": None}
    check_middleware(Namespace(**usual), {"VLLM_USE_RUST_FRONTEND": "0"})
    with pytest.raises(UserError, match=named):
        check_middleware(Namespace(**usual | given), variables)


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


def test_the_shared_state(tmp_path: Path) -> None:
    state = SharedState(tmp_path)
    state.publish(SERVED)
    state.expect(2)
    assert state.served() == SERVED
    counts = Counts(state)
    counts.set_ready()
    counts.begin()
    assert not state.ready  # the other API server is not
    assert state.in_flight == 1
    state.expect(1)
    counts.end()
    assert state.ready
    assert state.in_flight == 0
    assert (state.draining, state.ending, state.failure) == (False, False, None)
    state.stop_accepting()
    state.end_answers()
    state.fail("why")
    assert (state.draining, state.ending, state.failure) == (True, True, "why")


def test_a_model_that_vllm_cannot_run_is_refused_before_it_starts(artefact_dir: Path) -> None:
    """Heads of size 16, for which vLLM's CPU build has no kernel."""
    artefact = open_served_checkpoint(artefact_dir.parents[2] / "tiny")
    with pytest.raises(UserError, match="heads of size 16"):
        check_model(artefact)
    fitting = replace(artefact, head_dim=64)
    with pytest.raises(UserError, match="a vocabulary of 9 tokens"):
        check_draft(fitting, replace(fitting, vocab_size=9))
    check_draft(fitting, fitting)


def test_sizes_of_a_checkpoint(artefact_dir: Path) -> None:
    artefact = open_served_checkpoint(artefact_dir.parents[2] / "tiny")
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


def test_the_middleware_that_vllm_is_told_to_import_exists() -> None:
    module, _, name = MIDDLEWARE.rpartition(".")
    assert isinstance(getattr(import_module(module), name), type)
