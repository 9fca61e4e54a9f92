"""The perplexity that lm-eval finds through the served model, beside that of transformers.

lm-eval asks the server for the log-probabilities of a text, and the model's tokenizer for the tokens.

lm-eval 0.4.13 takes a tokenizer's beginning-of-text token for missing where its id is 0, so it is named.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

TASK = """\
task: lathe_heldout
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}]
"""
WINDOW = 250
"""Tokens that lm-eval scores in a call."""


def compare(programs: Path, url: str, name: str, model: Path, text: str, scratch: Path) -> dict[str, Any]:
    """Both perplexities per word, and how far apart they are."""
    served = _served(programs, url, name, model, text, scratch)
    here = _in_process(model, text)
    return {"served": served, "in_process": here, "relative_difference": abs(served / here - 1)}


def _served(programs: Path, url: str, name: str, model: Path, text: str, scratch: Path) -> float:
    (scratch / "data.jsonl").write_text(json.dumps({"text": text}) + "\n")
    (scratch / "task.yaml").write_text(TASK.format(data=scratch / "data.jsonl"))
    arguments = {
        "model": name,
        "base_url": f"{url}/v1/completions",
        "max_length": WINDOW + 2,
        "num_concurrent": 2,
        "custom_prefix_token_id": json.loads((model / "config.json").read_text())["bos_token_id"],
    }
    command = [
        str(programs / "lm-eval"),
        "run",
        "--model",
        "local-completions",
        "--tasks",
        "lathe_heldout",
        "--include_path",
        str(scratch),
        "--output_path",
        str(scratch / "results.json"),
        "--model_args",
        ",".join(f"{key}={value}" for key, value in arguments.items()),
    ]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(scratch / "hf")}
    done = subprocess.run(command, env=os.environ | offline, capture_output=True, text=True, check=False)
    written = sorted(scratch.glob("results*.json"))
    if done.returncode or not written:
        raise RuntimeError(f"lm-eval failed: {done.stderr[-2000:]}")
    results = json.loads(written[-1].read_text())["results"]["lathe_heldout"]
    return float(results["word_perplexity,none"])


def _in_process(model: Path, text: str) -> float:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    tokens = tokenizer(text, add_special_tokens=False).input_ids
    total = 0.0
    for given, scored in _windows([tokenizer.bos_token_id, *tokens]):
        inputs = torch.tensor([given])
        with torch.no_grad():
            logprobs = network(inputs).logits[0, -scored - 1 : -1].log_softmax(-1)
        total += float(logprobs.gather(1, inputs[0, -scored:, None]).sum())
    return math.exp(-total / len(text.split()))


def _windows(tokens: list[int]) -> list[tuple[list[int], int]]:
    """(tokens, how many of the last to score), as lm-eval cuts them: the last window looks further back."""
    ends = [*range(WINDOW + 1, len(tokens), WINDOW), len(tokens)]
    starts = [1, *ends[:-1]]
    cuts = zip(starts, ends, strict=True)
    return [(tokens[max(end - WINDOW - 1, 0) : end], end - start) for start, end in cuts]
