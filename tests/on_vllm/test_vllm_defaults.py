"""What `lathe serve` gives vLLM for what requests leave open, as vLLM takes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from vllm import EngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser

from lathe.serving.vllm.arguments import request_defaults
from lathe.serving.vllm.compat import make_arg_parser


@pytest.mark.parametrize(
    ("sampling", "taken"),
    [
        ({}, {}),
        ({"temperature": 0}, {"temperature": 0}),
        (
            {"temperature": 0.6, "top_k": 1, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.2},
            {"temperature": 0.6, "top_k": 1, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.2},
        ),
        ({"presence_penalty": 0.5, "max_new_tokens": 7}, {"presence_penalty": 0.5, "max_tokens": 7}),
    ],
)
def test_c11_the_models_sampling_is_what_we_read_and_its_ends_stay(
    artefact: Path, sampling: dict[str, float], taken: dict[str, Any]
) -> None:
    """The file itself says something else."""
    file = artefact / "generation_config.json"
    before = file.read_bytes() if file.exists() else None
    file.write_text(json.dumps({"do_sample": True, "temperature": 0.3, "top_k": 9, "eos_token_id": [2, 3]}))
    try:
        given = ["--model", str(artefact), *request_defaults(sampling, {"enable_thinking": False})]
        args = make_arg_parser(FlexibleArgumentParser()).parse_args(given)
        config = EngineArgs.from_cli_args(args).create_model_config()
        assert config.get_diff_sampling_param() == taken
        assert config.try_get_generation_config()["eos_token_id"] == [2, 3]
        assert args.default_chat_template_kwargs == {"enable_thinking": False}
    finally:
        if before is None:
            file.unlink()
        else:
            file.write_bytes(before)
