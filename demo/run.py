"""The main job on the demo model: compress to a latency target, serve, chat, load-test, one table.

    make demo

Everything it makes lies under build/demo/: the artefact, report.json, loadtest.json, chat.json.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "demo"
ARTEFACT, MODEL, HELDOUT = OUT / "artefact", ROOT / "demo" / "model", ROOT / "demo" / "heldout.txt"
SPEEDUP = "1.4x"
QUESTION = "My fellow Americans, the state of our Union is strong."


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    os.environ["LATHE_CACHE"] = str(OUT / "cache")
    report = compress()
    answer = chat()
    loadtest = load()
    table(report, answer, loadtest)


def lathe(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "lathe", *map(str, arguments)]


def say(*arguments: object) -> None:
    print("\n$ lathe " + shlex.join(str(a).replace(str(ROOT) + "/", "") for a in arguments), flush=True)


def compress() -> dict[str, Any]:
    """Compress to SPEEDUP times the dense model's speed.

    A ratio holds on a machine whose speed drifts, where milliseconds that were right a minute ago are not.
    The report gives the target in milliseconds.
    """
    arguments: list[object] = [
        "compress",
        MODEL,
        "--target-speedup",
        SPEEDUP,
        "--calibration",
        "self",
        "--calibration-tokens",
        32768,
        "--evaluation",
        HELDOUT,
        "-o",
        ARTEFACT,
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
def served(directory: Path):  # type: ignore[no-untyped-def]
    """A running `lathe serve`; gives the JSON line that it prints when ready."""
    say("serve", directory, "--port", 0)
    process = subprocess.Popen(
        lathe("serve", directory, "--port", 0, "--json"), cwd=ROOT, stdout=subprocess.PIPE, text=True
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


def chat() -> str:
    """One chat request through the openai client."""
    from openai import OpenAI

    with served(ARTEFACT) as ready:
        client = OpenAI(base_url=f"{ready['url']}/v1", api_key="unused")
        completion = client.chat.completions.create(
            model=ready["model"],
            messages=[{"role": "user", "content": QUESTION}],
            max_tokens=80,
            temperature=0.7,
            seed=1,
        )
        (OUT / "chat.json").write_text(completion.model_dump_json(indent=2) + "\n")
    answer = completion.choices[0].message.content or ""
    print(f"user: {QUESTION}\nsubnet: {answer}", flush=True)
    return answer


def load() -> dict[str, Any]:
    """Dense against compressed under the same load."""
    arguments = [
        "loadtest",
        ARTEFACT,
        "--against",
        MODEL,
        "--concurrency",
        4,
        "--requests",
        48,
        "--rounds",
        4,
        "--prompt-tokens",
        128,
        "--output-tokens",
        64,
        "-o",
        OUT / "loadtest.json",
    ]
    say(*arguments)
    if subprocess.run(lathe(*arguments), cwd=ROOT, check=False).returncode:
        sys.exit("the load test failed")
    return json.loads((OUT / "loadtest.json").read_text())


def table(report: dict[str, Any], answer: str, loadtest: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    latency, quality, weights = report["latency"], report["perplexity"], report["weight_bytes"]
    dense, subnet = loadtest["systems"]["dense"], loadtest["systems"]["subnet"]
    rows = [
        ("target latency (ms/token)", "", f"{latency['target_ms']:.3f}"),
        ("predicted latency (ms/token)", "", f"{latency['predicted_ms']:.3f}"),
        ("measured latency (ms/token)", f"{latency['dense_ms']:.3f}", f"{latency['measured_ms']:.3f}"),
        ("perplexity, held-out text", f"{quality['dense']:.1f}", f"{quality['subnet']:.1f}"),
        ("weights (MiB)", *(f"{weights[name] / 2**20:.2f}" for name in ("dense", "subnet"))),
        (
            "peak memory of the server (MiB)",
            *(f"{s['memory']['peak_rss_bytes'] / 2**20:.0f}" for s in (dense, subnet)),
        ),
        ("tokens/s as served, 4 clients", *(f"{s['output_tokens_per_second']:.0f}" for s in (dense, subnet))),
        ("chat answer", "", f"{len(answer.split())} words"),
    ]
    result = Table(title="\nLathe: the demo model, dense and compressed", title_justify="left")
    for name in ("", "dense", "compressed"):
        result.add_column(name, justify="right" if name else "left")
    for row in rows:
        result.add_row(*row)
    Console(width=100).print(result)
    print(
        f"artefact: {ARTEFACT.relative_to(ROOT)}   report: {(OUT / 'report.json').relative_to(ROOT)}   "
        f"load test: {(OUT / 'loadtest.json').relative_to(ROOT)}"
    )


if __name__ == "__main__":
    main()
