"""Does onnxruntime-genai answer as Lathe's engine and as transformers do?

    make check-genai OUT=build/demo/artefact MODEL=demo/model

OUT is a folder of `--export genai`. Prompts are from demo/heldout.txt; answers are greedy. Where OUT has no
checkpoint, as an export of a dense model, MODEL is what transformers loads. Prints one JSON document: answers
that are the same, token by token, and the largest difference of logits over their standard deviation. Exit
status 1 where Lathe's engine, which runs the same weights, answers otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as genai
import torch

from lathe.artefact.modeling import register
from lathe.artefact.modeling.load import load_model
from lathe.artefact.onnx.graph_format import GRAPH
from lathe.artefact.onnx.runner import OnnxRunner

TEXT = Path("demo/heldout.txt")
PROMPTS, WORDS, NEW = 8, 40, 48
LENGTH = 512


def generated(folder: Path, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """By onnxruntime-genai: prompt, tokens and the logits before each."""
    model = genai.Model(str(folder))
    tokenizer, found = genai.Tokenizer(model), []
    for text in texts:
        params = genai.GeneratorParams(model)
        params.set_search_options(max_length=LENGTH, do_sample=False)
        generator, prompt = genai.Generator(model, params), np.array(tokenizer.encode(text))
        generator.append_tokens(prompt)
        tokens: list[int] = []
        logits: list[np.ndarray] = []
        while len(tokens) < NEW and not generator.is_done():
            logits.append(np.array(generator.get_logits()).ravel())
            generator.generate_next_token()
            tokens.append(int(generator.get_next_tokens()[0]))
        found.append((prompt, np.array(tokens), np.array(logits)))
    return found


def served(runner: OnnxRunner, prompt: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The logits before each of some tokens, by Lathe's engine."""
    runner.reset(0)
    rows = [runner.prefill(0, prompt), *(runner.decode(tokens[at : at + 1]) for at in range(len(tokens) - 1))]
    return np.concatenate(rows)


@torch.inference_mode()
def modelled(model: Any, prompt: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    ids = torch.tensor([[*prompt.tolist(), *tokens.tolist()]])
    logits: np.ndarray = model(ids).logits[0, len(prompt) - 1 : -1].numpy()
    return logits


def compared(found: list[Any], reference: Any) -> dict[str, Any]:
    """How many answers are the reference's, and the largest difference of logits."""
    pairs = [(tokens, logits, reference(prompt, tokens)) for prompt, tokens, logits in found]
    return {
        "answers": len(pairs),
        "same": sum(bool((expected.argmax(1) == tokens).all()) for tokens, _, expected in pairs),
        "difference": max(
            float(np.abs(logits - expected).max() / expected.std()) for _, logits, expected in pairs
        ),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, help="what transformers loads")
    args = parser.parse_args()
    words = TEXT.read_text().split()
    starts = np.linspace(0, len(words) - WORDS, PROMPTS).astype(int)
    found = generated(args.folder, [" ".join(words[at : at + WORDS]) for at in starts])
    runner = OnnxRunner(args.folder / GRAPH, max_batch=1, max_length=LENGTH)
    engine = compared(found, lambda prompt, tokens: served(runner, prompt, tokens))
    register()
    model = load_model(args.folder if (args.folder / "model.safetensors").exists() else args.model)
    transformers = compared(found, lambda prompt, tokens: modelled(model, prompt, tokens))
    print(json.dumps({"folder": str(args.folder), "lathe": engine, "transformers": transformers}, indent=1))
    return int(engine["same"] < engine["answers"])


if __name__ == "__main__":
    sys.exit(main())
