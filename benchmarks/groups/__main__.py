"""FineQuant's groups: does a size for each matrix lose less than one size for all, at equal bits?

    make bench-groups MODEL=dir EVAL=heldout.txt,other.txt BENCH='--bits 4,3'

The matrices of all layers are rounded in groups of a whole row, 256, 128, 64, 32 and 16 columns; in those
that FineQuant's rule gives each of them, for several thresholds alpha (`adaptive`); and in those of the
product's own rule (`auto`). To nearest, which needs no text; with --text also with compensation, from the
Gram matrices of the dense model. Embedding and head stay as they are. Losses are those of a forward pass in
PyTorch, float32, with the dequantized values; bits per weight count a scale as 16 bits (ONNX stores 32).

Writes JSON after every row; rows that it has of the same model and texts are kept. Prints a table: loss
increase and KL(dense || rounded), in nats per token, and for rules the KL that fixed groups have at the same
bits, on the straight line between two sizes.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.groups.choices import SIZES, Choice, adaptive, automatic, effective_bits, fixed
from benchmarks.groups.rounded import Grams, RoundedLayers, input_grams
from benchmarks.groups.verdict import Row, at_equal_bits, table
from benchmarks.quality.score import Judge
from benchmarks.quality.setting import Setting
from benchmarks.windows import text_windows
from lathe.artefact.atomic_files import write_json
from lathe.artefact.errors import UserError
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.compute.progress import Progress
from lathe.compressor.model.checkpoint import Checkpoint, open_checkpoint
from lathe.compressor.model.decoder import LayeredModel
from lathe.serving.loadtest.document import machine

NEAREST, COMPENSATED = "nearest", "compensated"
_OF_ROWS = ("bits", "alphas")
"""Settings that say which rows there are, not what is in them."""


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    args = _parser().parse_args(arguments)
    settings = {name: str(value) for name, value in vars(args).items() if name != "out"}
    document: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.groups", *(arguments or sys.argv[1:])]),
        "machine": machine() | {"torch": torch.__version__, "threads": torch.get_num_threads()},
        "settings": settings,
    }
    rows: list[Row] = []
    try:
        for rows in compare(args, _known(args.out, settings)):
            args.out.parent.mkdir(parents=True, exist_ok=True)
            write_json(args.out, document | {"rows": rows})
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(rows), f"written to {args.out}", sep="\n\n")
    return 0


def _known(out: Path, settings: dict[str, str]) -> list[Row]:
    """Returns the rows that a document has, if it is of the same settings."""
    document = json.loads(out.read_text()) if out.is_file() else {"settings": {}}
    same = all(document["settings"].get(name) == settings[name] for name in settings if name not in _OF_ROWS)
    return list(document["rows"]) if same else []


def compare(args: argparse.Namespace, known: list[Row]) -> Iterator[list[Row]]:
    """Yields the rows so far, after each step, with those that are known.

    Raises:
        UserError: the model or a text will not do.
    """
    source = open_checkpoint(args.model)
    setting = _setting(source)
    judges = {
        Path(text).name: Judge(setting, text_windows(source, text, args.window, args.windows))
        for text in args.eval.split(",")
    }
    grams: dict[str, Grams | None] = {NEAREST: None}
    if args.text:
        count = max(1, args.tokens // args.window)
        grams[COMPENSATED] = input_grams(setting, text_windows(source, args.text, args.window, count))
    rows, done = list(known), {(row["code_bits"], row["method"], row["groups"]) for row in known}
    for bits in args.bits:
        choices = _choices(setting, bits, args.alphas)
        for method, inputs in grams.items():
            rounded = RoundedLayers(setting.layers, bits, inputs)
            for choice in choices:
                if (bits, method, choice.name) in done:
                    continue
                rows += _rows(setting, judges, choice, rounded, method)
                print(f"int{bits} {method} {choice.name}: KL {rows[-1]['kl']:.4f}", file=sys.stderr)
                yield at_equal_bits(rows)
    yield at_equal_bits(rows)


def _choices(setting: Setting, bits: int, alphas: list[float]) -> list[Choice]:
    layers = setting.layers
    return [
        *(fixed(layers, size) for size in (None, *SIZES)),
        *(adaptive(layers, alpha) for alpha in alphas),
        automatic(layers, bits),
    ]


def _rows(
    setting: Setting, judges: dict[str, Judge], choice: Choice, rounded: RoundedLayers, method: str
) -> list[Row]:
    """Returns a row for each text."""
    subnet, bits = setting.subnet(rounded(choice)), rounded.bits
    common = {
        "method": method,
        "code_bits": bits,
        "rule": choice.rule,
        "groups": choice.name,
        "matrices": choice.counts(),
        "bits": effective_bits(setting.layers, choice, bits),
    }
    found = []
    for text, judge in judges.items():
        score = judge.score(subnet.hidden)
        increase = score.loss - judge.dense_loss
        scores = {"loss": score.loss, "increase": increase, "kl": score.kl, "agreement": score.agreement}
        found.append({"text": text, **common, **scores})
    return found


def _setting(source: Checkpoint) -> Setting:
    """Returns the dense model, without calibration text."""
    model, none = LayeredModel.open(source, ArrayStore()), torch.empty(0, 0, dtype=torch.int64)
    layers = [dict(layer) for layer in model.layers]
    progress = Progress(quiet=True)
    return Setting(
        source, model.runner, model.head, model.embedding, layers, none, none, [], seed=0, progress=progress
    )


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _shares(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.groups",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, help="a checkpoint directory")
    add("--eval", required=True, help="texts to score on, with commas")
    add("--text", help="calibration text; without it, nothing is rounded with compensation")
    add("--tokens", type=int, default=16_384, help="of the calibration text [%(default)s]")
    add("--bits", type=_numbers, default=[4, 3, 8], help="of a code, with commas [4,3,8]")
    add("--alphas", type=_shares, default=[0.86, 0.92, 0.93, 0.94], help="[0.86,0.92,0.93,0.94]")
    add("--windows", type=int, default=8, help="of each text [%(default)s]")
    add("--window", type=int, default=512, help="tokens of a window [%(default)s]")
    add("--out", type=Path, default=Path("build/bench/groups.json"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
