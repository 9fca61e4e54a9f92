#!/bin/sh
# Guess: `Tokenizer.encode` of the Rust library tokenizers lets go of Python's interpreter lock, as its batch methods do, so a
#   server that encodes in a thread (asyncio.to_thread) goes on with its event loop meanwhile.
# Version: tokenizers 0.23.3.
# Behaviour: `encode` holds the lock from beginning to end: no other thread runs. `encode_batch_fast` with the same text as
#   its only element lets the others run, and gives the same tokens.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --disable-pip-version-check tokenizers==0.23.3
"$here/venv/bin/python" - <<'PY'
import sys, threading, time
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

text = "The quick brown fox jumps over the lazy dog. " * 20_000
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.train_from_iterator([text[:1000]], trainers.BpeTrainer(vocab_size=300, show_progress=False))

def watched(work):
    """(result, seconds it took, longest time in which another thread did not run)"""
    gaps, done = [], threading.Event()
    def other():
        last = time.perf_counter()
        while not done.is_set():
            time.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now
    thread = threading.Thread(target=other)
    thread.start()
    began = time.perf_counter()
    result = work()
    took = time.perf_counter() - began
    done.set()
    thread.join()
    return result, took, max(gaps)

one, alone_s, alone_gap = watched(lambda: tokenizer.encode(text))
[many], batch_s, batch_gap = watched(lambda: tokenizer.encode_batch_fast([text]))
print(f"encode: {alone_s:.2f} s, another thread stood still for {alone_gap:.2f} s")
print(f"encode_batch_fast: {batch_s:.2f} s, another thread stood still for {batch_gap:.2f} s")
print("same tokens:", one.ids == many.ids)
sys.exit(not (one.ids == many.ids and alone_gap > 0.9 * alone_s and batch_gap < 0.5 * batch_s))
PY
