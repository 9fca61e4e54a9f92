"""Bodies that are broken, huge or deep, while eight good streams run; artefacts with one byte changed."""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from statistics import median

import httpx
import pytest
from fault_rig import ENDLESS, ENGINE, MIB, Figures, percentile, seconds_until, served, stream, together

from lathe.artefact.errors import UserError
from lathe.artefact.manifest import write_manifest
from lathe.serving.http.body import BODY_LIMIT
from lathe.serving.served_gguf import open_served_gguf
from lathe.serving.served_model import open_served_checkpoint, open_served_model
from support.tiny_server import save_checkpoint

pytestmark = pytest.mark.faults


def body(**changes: object) -> bytes:
    return json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 2} | changes).encode()


def schema(definition: object) -> bytes:
    return body(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": definition}})


BAD = {
    "empty": b"",
    "cut off": b'{"model": "tiny", "prompt": "x',
    "not UTF-8": b'{"model": "tiny", "prompt": "\xff\xfe"}',
    "lone surrogate": b'{"model": "tiny", "prompt": "\\ud800"}',
    "NaN": b'{"model": "tiny", "prompt": "x", "temperature": NaN}',
    "Infinity": b'{"model": "tiny", "prompt": "x", "temperature": 1e999}',
    "100,000 brackets": b"[" * 100_000,
    "100,000 objects": b'{"a":' * 100_000,
    "deep field": b'{"model": "tiny", "prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "10 MB": b'{"model": "tiny", "prompt": "' + b"x" * 10 * MIB + b'"}',
    "10 MB of blanks": b" " * 10 * MIB,
    "a prompt of 4 MB": body(prompt="word " * (4 * MIB // 5 - 100)),
    "2 million tokens": body(prompt=[1] * 1_300_000),
    "100,000 prompts": body(prompt=["x"] * 100_000),
    "a name of 1 MB": b'{"' + b"k" * MIB + b'": 1, "model": "tiny", "prompt": "x"}',
    "100,000 unknown fields": body(**{f"k{i}": i for i in range(100_000)}),
    "n of a billion": body(n=10**9),
    "a number of 100,000 digits": b'{"model": "tiny", "prompt": "x", "seed": ' + b"9" * 100_000 + b"}",
    "a schema of 3 MB": schema({"enum": ["x" * 100] * 30_000}),
    "a hostile schema": schema({"allOf": [{"type": "integer", "multipleOf": p} for p in (97, 89, 83)]}),
    "a deep schema": schema(json.loads('{"items":' * 150 + "{}" + "}" * 150)),
    "a pattern of 60,000": schema({"type": "string", "pattern": "(a|" * 15_000 + "b" + ")" * 15_000}),
}
Reply = tuple[int, int, float]
"""Status, bytes, milliseconds."""
ROUNDS, TIMES = 24, 2
ONE_MORE_ARENA_MIB = 16
"""What the allocator may take once more when bodies meet in another way; a leak takes it every time."""


def test_bad_bodies_while_good_streams_run(artefact_dir: Path, figures: Figures):
    good, answers = partial(stream, body=ENDLESS | {"max_tokens": 490}), []
    with served(artefact_dir, pace_ms=20) as server, figures.of("bad bodies") as note:
        calm = together(server.url, *[good] * 8)
        memory = [server.rss]
        run = threading.Thread(target=lambda: answers.extend(together(server.url, *[good] * 8)))
        run.start()
        seconds_until(lambda: server.held() == 8)
        replies: dict[str, list[Reply]] = {name: [] for name in BAD}
        for _ in range(ROUNDS):
            for name, content in BAD.items():
                replies[name] += post_often(server.url, content)
            memory.append(server.rss)
        run.join()
        statuses = Counter(status for seen in replies.values() for status, _, _ in seen)
        note.fact(f"kinds of bodies, each sent {ROUNDS * TIMES} times", len(BAD))
        note.fact("statuses", " ".join(f"{count}x{status}" for status, count in sorted(statuses.items())))
        note.equal("answers other than 400 or 413", sum(statuses.values()) - statuses[400] - statuses[413], 0)
        longest = max(size for seen in replies.values() for _, size, _ in seen)
        note.within("bytes of the longest answer", longest, 8192)
        typical = {name: median(ms for _, _, ms in seen) for name, seen in replies.items()}
        name = max(typical, key=lambda name: typical[name])
        note.within(f"ms to an answer, the slowest kind ({name})", typical[name], 200)
        small = max(typical[name] for name, content in BAD.items() if len(content) < MIB)
        note.within("ms to an answer, bodies under 1 MiB", small, 100)
        note.equal("good streams meanwhile, complete of 8", sum(answer.done for answer in answers), 8)
        note.within("their longest gap between tokens, ms more", longest_gap(answers) - longest_gap(calm), 50)
        note.fact("MiB of memory more than before", (memory[-1] - memory[0]) / MIB)
        later = (memory[-1] - memory[ROUNDS // 2]) / MIB
        note.within("of these in the second half of the rounds", later, ONE_MORE_ARENA_MIB)
        note.equal("status of ready", server.status("/health/ready"), 200)


def post_often(url: str, content: bytes) -> list[Reply]:
    seen = []
    with httpx.Client(base_url=url, timeout=30, headers={"content-type": "application/json"}) as http:
        for _ in range(TIMES):
            started = time.perf_counter()
            try:
                reply = http.post("/v1/completions", content=content)
                status, size = reply.status_code, len(reply.content)
            except httpx.NetworkError:  # hung up on before everything was sent, as 413 may be
                status, size = (413 if len(content) > BODY_LIMIT else 0), 0
            seen.append((status, size, (time.perf_counter() - started) * 1000))
    return seen


def longest_gap(answers: list) -> float:
    """Milliseconds, the 99th percentile of all streams: one that everybody waited for would show."""
    gaps = [(b - a) * 1000 for x in answers for a, b in zip(x.times, x.times[1:], strict=False)]
    return percentile(gaps, 99)


OPENED_BY = {"onnx": open_served_model, "llamacpp": open_served_gguf}


def flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def refused(directory: Path, is_served: bool) -> bool:
    try:
        (OPENED_BY[ENGINE] if is_served else open_served_checkpoint)(directory)
    except UserError:
        return True
    return False


def test_one_bit_changed_anywhere(artefact_dir: Path, tmp_path: Path, figures: Figures):
    """Half of the files of an artefact, half of a checkpoint's; every file as often as any other."""
    rng = random.Random(0)
    checkpoint = save_checkpoint(tmp_path / "checkpoint")
    write_manifest(checkpoint)
    told = 0
    with figures.of("one bit flipped") as note:
        for number in range(200):
            source = (artefact_dir, checkpoint)[number % 2]
            copy = Path(shutil.copytree(source, tmp_path / "copy"))
            assert not refused(copy, number % 2 == 0)
            files = sorted(file for file in copy.rglob("*") if file.is_file() and file.stat().st_size)
            flip(rng.choice(files), rng)
            told += refused(copy, number % 2 == 0)
            shutil.rmtree(copy)
        note.equal("refused at load, of 200", told, 200)
