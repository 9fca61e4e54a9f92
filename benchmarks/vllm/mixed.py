"""A model whose blocks have 4 or 8 bits, or stay as they are, served by vLLM: PyTorch's tokens?

    make check-vllm-mixed MODEL=dir EVAL=file BENCH='--bits 4,8,0 --bits 4,0'

The bits go round the blocks: attention and FFN of the first layer, of the second, and so on. The model is
exported (`lathe export --to vllm --quantize mixed`), and vLLM answers prompts from the text greedily, all in
one batch. PyTorch reads the same tokens with the values of the checkpoint's codes, in float32 and in the
type that vLLM serves in, and says where it would have chosen another token, and how much likelier that was
to it. `itself` is PyTorch in the served type against float32: rounding activations to int8 amplifies any
difference, so a token may differ though all is right. The dense model is served beside it.

Writes JSON, prints it, and exits with 1 if vLLM is farther from PyTorch in the served type than twice what
PyTorch is from itself, and than `--bound` nats.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lathe.artefact.atomic_files import write_json
from lathe.artefact.plan import Plan
from lathe.artefact.tokenizer import open_tokenizer
from lathe.compressor.export.dense import export_dense
from lathe.compressor.export.vllm_mixed import export_mixed
from lathe.compressor.model.checkpoint import open_checkpoint
from lathe.serving.loadtest.document import machine

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_INT4_W4A8": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
"""The fourth: with AMX, vLLM would round activations before 4-bit weights, too."""
BITS = ("4,8,0", "4,0")
Tokens = list[list[int]]


def main() -> int:
    """Returns the exit status."""
    args = _arguments()
    os.environ.update(ENVIRONMENT)
    torch.set_num_threads(args.threads)
    prompts = prompts_of(args)
    command = shlex.join(["python", "-m", "benchmarks.vllm.mixed", *sys.argv[1:]])
    document: dict[str, Any] = {"command": command, "machine": machine(), "cases": []}
    with tempfile.TemporaryDirectory(prefix="lathe-mixed-") as work:
        for bits in (*(args.bits or BITS), None):
            case = served(args, prompts, bits, Path(work) / f"{bits}")
            document["cases"].append(case)
            print(json.dumps(case), flush=True)
            args.out.parent.mkdir(parents=True, exist_ok=True)
            write_json(args.out, document)
    bounds = [
        (case["served_type"], max(args.bound, 2 * case["itself"]["worst"])) for case in document["cases"]
    ]
    return int(any(found["worst"] > bound for found, bound in bounds))


def served(args: argparse.Namespace, prompts: Tokens, bits: str | None, directory: Path) -> dict[str, Any]:
    """Exports the model with bits that go round its blocks, or as it is, and compares its answers."""
    facts: dict[str, Any] = {"bits": bits}
    if bits is None:
        export_dense(args.model, directory, "vllm")
    else:
        plan = plan_of(args.model, bits)
        file = directory.with_suffix(".json")
        write_json(file, plan.to_json())
        facts["quantization"] = export_mixed(args.model, directory, plan=file)
    return facts | compare(directory, prompts, args)


def plan_of(model: str, bits: str) -> Plan:
    """Returns the dense widths with bits that go round the blocks."""
    dense = open_checkpoint(model).shape.dense_plan
    each = list(islice(cycle(int(text) for text in bits.split(",")), 2 * len(dense)))
    rows = zip(dense, each[::2], each[1::2], strict=True)
    return Plan(tuple(replace(layer, attention_bits=first, ffn_bits=second) for layer, first, second in rows))


def prompts_of(args: argparse.Namespace) -> Tokens:
    """Returns ragged prompts from evenly spaced places of the text."""
    text = Path(args.text).read_text(encoding="utf-8")
    step = len(text) // args.prompts
    tokenizer = open_tokenizer(Path(args.model))
    starts = [text[i * step : i * step + 16 * args.prompt_tokens] for i in range(args.prompts)]
    lengths = [max(2, args.prompt_tokens * (i + 1) // args.prompts) for i in range(args.prompts)]
    pairs = zip(starts, lengths, strict=True)
    return [tokenizer(start)["input_ids"][:length] for start, length in pairs]


def compare(directory: Path, prompts: Tokens, args: argparse.Namespace) -> dict[str, Any]:
    """Returns how far vLLM's answers are from PyTorch's, in float32 and in the served type."""
    from benchmarks.vllm.reference import half_reference, reference

    answers = _answers(directory, prompts, args)
    pairs = list(zip(prompts, answers, strict=True))
    dtype = getattr(torch, args.dtype)
    rows = [
        [_rows(model, *pair) for pair in pairs]
        for model in (reference(directory), half_reference(directory, dtype))
    ]
    given = [torch.tensor(answer) for answer in answers]
    own = [row.argmax(-1) for row in rows[1]]
    return {
        "dtype": args.dtype,
        "tokens": sum(map(len, answers)),
        "float32": _distance(rows[0], given),
        "served_type": _distance(rows[1], given),
        "itself": _distance(rows[0], own),
    }


def _answers(directory: Path, prompts: Tokens, args: argparse.Namespace) -> Tokens:
    from vllm import LLM, SamplingParams

    torch_threads = torch.set_num_threads
    engine = LLM(
        str(directory),
        dtype=args.dtype,
        enforce_eager=True,
        skip_tokenizer_init=True,
        max_model_len=args.prompt_tokens + args.new_tokens + 1,
        enable_prefix_caching=False,
    )
    sampling = SamplingParams(max_tokens=args.new_tokens, temperature=0, detokenize=False, ignore_eos=True)
    asked: Any = [{"prompt_token_ids": prompt} for prompt in prompts]
    try:
        outputs = engine.generate(asked, sampling, use_tqdm=False)
    finally:
        engine.llm_engine.engine_core.shutdown()
        torch.set_num_threads = torch_threads  # vLLM leaves one that does nothing
    return [list(output.outputs[0].token_ids) for output in outputs]


@torch.inference_mode()
def _rows(model: nn.Module, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Returns PyTorch's log-probabilities where each token of an answer was chosen."""
    logits = model(torch.tensor([prompt + answer])).logits[0].float()
    return logits.log_softmax(-1)[len(prompt) - 1 : -1]


def _distance(rows: list[torch.Tensor], chosen: list[torch.Tensor]) -> dict[str, float]:
    """Returns how many tokens are not the likeliest, and by how many nats at most."""
    pairs = zip(rows, chosen, strict=True)
    lost = torch.cat([row.amax(-1) - row.gather(1, tokens[:, None])[:, 0] for row, tokens in pairs])
    return {"differ": int((lost > 0).sum()), "worst": float(lost.max())}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo/model")
    parser.add_argument("--text", default="demo/heldout.txt")
    parser.add_argument(
        "--bits", action="append", help="of the blocks in turn; 0: as they are; may be repeated"
    )
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=128, help="of the longest prompt")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--bound", type=float, default=0.13, help="nats; a step of bfloat16 logits from 16 on"
    )
    parser.add_argument("--out", type=Path, default=Path("build/bench/vllm-mixed.json"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
