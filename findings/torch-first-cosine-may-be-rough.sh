#!/bin/sh
# Guess: a float32 function gives the same values for the same input whenever it is called; on a processor `cos` is right to 7 digits.
# Version: torch 2.13.0 (its x86-64 wheel, with Intel's vector math library), two threads or more; seen on a Xeon.
# Behaviour: the first `cos` of a process is now and then right to four digits only, in the rows of one thread; the second call is right.
#   One process in 13 to 600, one in 25 where a transformers model was loaded first. `exp`, `erf` and `sqrt` do it, too (seen once
#   or twice in 200 processes of eight threads). A call on one element before, which is one thread's, prevents it. So rotary tables
#   that are made once per process (transformers, vLLM) may be off by 1.5e-4 at half of the positions for as long as it lives,
#   and the attention of one model differs between two runs by a thousand times what rounding explains.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$here/venv/bin/python" - <<'PY' 2>/dev/null
import math
import os
import sys

import torch

frequencies = [1e5 ** (-i / 32) for i in range(32)]
angles = torch.tensor([[position * frequency for frequency in frequencies] for position in range(48)])
exact = [[math.cos(angle) for angle in row] for row in angles.tolist()]


def first_cosine(warm):
    """Largest error of the first cosine of a process, and the rows that have an error."""
    if warm:
        torch.ones(1).cos()
    found = torch.cat((angles, angles), -1).cos().tolist()
    errors = [max(abs(a - b) for a, b in zip(mine, right)) for mine, right in zip(found, exact)]
    return max(errors), [row for row, error in enumerate(errors) if error > 1e-6]


def in_processes(count, warm, enough):
    """What was found in forked processes; the parent has not called the library."""
    rough = []
    for made in range(1, count + 1):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.write(writing, repr(first_cosine(warm)).encode())
            os._exit(0)
        os.close(writing)
        error, rows = eval(os.read(reading, 65536))
        os.close(reading)
        os.waitpid(child, 0)
        if rows:
            rough.append((error, rows))
        if len(rough) >= enough:
            break
    return rough, made


torch.set_num_threads(2)
cold, processes = in_processes(6000, False, 3)
for error, rows in cold:
    print(f"off by {error:.1e} in rows {rows[0]} to {rows[-1]} of 48")
warm, others = in_processes(3000, True, 1)
print(f"rough in {len(cold)} of {processes} processes, in {len(warm)} of {others} that had called it on one element")
sys.exit(not (len(cold) == 3 and not warm))
PY
