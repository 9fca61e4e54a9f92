"""Compresses a model from Python.

python examples/compress.py MODEL OUT
"""

import sys
from pathlib import Path

import lathe

outcome = lathe.compress(
    model=sys.argv[1],
    out=Path(sys.argv[2]),
    keep=0.7,  # or a measured target: target_speedup=1.5, target_latency_ms=30.0
    calibration="self",  # the model writes its own text
    calibration_tokens=4096,  # the default, 65,536, is better and slower
)
perplexity = outcome.report["perplexity"]
print(f"{outcome.status}: {outcome.out}, perplexity {perplexity['dense']:.2f} -> {perplexity['subnet']:.2f}")
