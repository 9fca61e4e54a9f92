"""`lathe serve` on a model too small to choose a tool by itself: it is told what to say.

The last phrase of scripts.json in a prompt (`[[weather]]`, or what a suite asks) tells it what: answer number
i where i results of tools follow the phrase. All of the server is the real one, graph, sampling and grammar
included; only the logit of the next wanted token is raised. Other prompts are answered as the model likes.
"""

from __future__ import annotations

import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lathe.artefact.onnx import runner
from lathe.cli import lathe
from lathe.serving.backend import Observer, ServingBackend
from lathe.serving.decoding.tokenizer import Tokenizer
from lathe.serving.launch.engines import onnx as engine
from lathe.serving.options import ServeOptions
from lathe.serving.served_model import ServedModel

HERE = Path(__file__).parent
COMMAND = (sys.executable, "-m", "benchmarks.conformance.clients.scripted", "serve")
SCRIPTS: dict[str, list[str]] = json.loads((HERE / "scripts.json").read_text())
RESULT = "</tool_response>"
CONTEXT = 4096
RAISED = 1000


def with_tools(model: Path, directory: Path) -> Path:
    """A copy of a dense Llama whose chat template shows tools, with room for what clients say about them."""
    shutil.copytree(model, directory)
    shutil.copy(HERE / "chat_template.jinja", directory)
    lengths = {"config.json": "max_position_embeddings", "tokenizer_config.json": "model_max_length"}
    for name, key in lengths.items():
        file = directory / name
        file.write_text(json.dumps(json.loads(file.read_text()) | {key: CONTEXT}))
    return directory


class ScriptedRunner(runner.OnnxRunner):
    """The real runner, which follows the script of a slot's prompt."""

    def __init__(self, *args: Any, tokenizer: Tokenizer, **options: Any) -> None:
        super().__init__(*args, **options)
        self._tokenizer = tokenizer
        self._prompts: dict[int, list[int]] = {}

    def prefill(self, slot: int, tokens: np.ndarray, logits: Any = "last") -> np.ndarray:
        if self.lengths[slot] == 0:
            self._prompts[slot] = []
        self._prompts[slot].extend(tokens.tolist())
        return self._led(super().prefill(slot, tokens, logits), -1, slot)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        rows = super().decode(tokens)
        for slot in range(len(rows)):
            rows = self._led(rows, slot, slot)
        return rows

    def move(self, source: int, target: int) -> None:
        super().move(source, target)
        self._prompts[target] = self._prompts.pop(source, [])

    def _led(self, rows: np.ndarray, row: int, slot: int) -> np.ndarray:
        prompt = self._prompts.get(slot, [])
        script = self._script(prompt)
        at = int(self.lengths[slot]) - len(prompt)
        if at < len(script):
            rows = rows.copy()
            rows[row, script[at]] += RAISED
        return rows

    def _script(self, prompt: list[int]) -> list[int]:
        text = self._tokenizer.decode(prompt, special=True)
        last = max(SCRIPTS, key=text.rfind)
        if last not in text:
            return []
        answers = SCRIPTS[last]
        said = answers[min(text.rpartition(last)[2].count(RESULT), len(answers) - 1)]
        return [*self._tokenizer.encode(said, special=False).tolist(), self._tokenizer.eos_token_id]


def main() -> None:
    plain = engine.open_onnx

    def open_scripted(
        artefact: ServedModel, tokenizer: Tokenizer, options: ServeOptions, observer: Observer
    ) -> ServingBackend:
        runner.OnnxRunner = partial(ScriptedRunner, tokenizer=tokenizer)  # type: ignore[misc, assignment]
        return plain(artefact, tokenizer, options, observer)

    engine.open_onnx = open_scripted
    lathe()


if __name__ == "__main__":
    main()
