"""Compresses a model for your own texts, and reports its perplexity on a text that it was not fitted on.

python examples/calibration_text.py MODEL OUT HELD_OUT TEXT...
"""

import sys
from pathlib import Path

import lathe

model, out, held_out, *texts = sys.argv[1:]
outcome = lathe.compress(
    model=model,
    out=Path(out),
    keep=0.7,
    calibration=",".join(texts),  # files or folders, each with an equal share of the tokens
    calibration_tokens=4096,
    evaluation=held_out,
    export=("checkpoint",),  # no ONNX graph, so nothing is timed
)
used = outcome.report["calibration"]
print(f"fitted on {used['tokens']} tokens of {', '.join(texts)}")
print(f"perplexity on {held_out}: {outcome.report['perplexity']['subnet']:.2f}")
