"""Train the demo model: a small Llama with grouped-query attention and a chat format.

    python demo/train.py TEXT_FOLDER -o demo/model --heldout demo/heldout.txt --tokens 12e6

TEXT_FOLDER holds .txt files; documents inside a file are separated by lines that read <|doc|>.
Only prose paragraphs are used (code, tables and headings are left out). A part of the paragraphs is
written as a chat: the first sentence is the user's, the rest is the answer, so that the model
continues a thought it is given and knows how to stop. Weights are stored in bfloat16 to stay small;
config.json asks for float32, which is what every loader then computes in.

About an hour on one CPU core for 12 M tokens. The shipped model was trained on public-domain text
only (State of the Union addresses and Python Enhancement Proposals): held-out perplexity 37.1 per token.
"""

from __future__ import annotations

import argparse
import math
import random
import re
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BOS, EOS, USER, ASSISTANT = "<s>", "</s>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}<|assistant|>{{ m['content'] }}"
    "{% else %}<|user|>{{ m['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
VOCABULARY = 2048
CHAT_SHARE = 0.3


def prose(document: str) -> list[str]:
    """Paragraphs of running text, rewrapped to one line each."""
    kept = []
    wrapped = max(map(len, document.split("\n"))) < 200
    for block in re.split(r"\n\s*\n" if wrapped else r"\n", document):
        if re.match(r"\s{2,}|[=\-*#>|+.:]", block):
            continue
        text = re.sub(r"\s+", " ", block).strip()
        plain = sum(c.isalnum() or c in " ,.;:'\"-?!$%()/" for c in text)
        if len(text) >= 80 and plain >= 0.985 * len(text) and text[-1] in '.!?"' and text[0].isupper():
            kept.append(text)
    return kept


def read_documents(folder: Path) -> list[list[str]]:
    documents = []
    for path in sorted(folder.glob("*.txt")):
        for document in path.read_text(encoding="utf-8").split("<|doc|>"):
            if paragraphs := prose(document):
                documents.append(paragraphs)
    return documents


def split_heldout(documents: list[list[str]], characters: int) -> tuple[list[list[str]], list[list[str]]]:
    """Whole documents, taken evenly over the collection, until `characters` are held out."""
    heldout, rest, size = [], [], 0
    for i, document in enumerate(documents):
        length = sum(map(len, document))
        if i % 11 == 5 and size < characters and 5_000 < length < 40_000:
            heldout.append(document)
            size += length
        else:
            rest.append(document)
    return rest, heldout


def train_tokenizer(documents: list[list[str]]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, EOS, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator((p for d in documents for p in d), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def as_chat(paragraph: str) -> str:
    head, dot, tail = paragraph.partition(". ")
    return f"{USER}{head}{dot.strip()}{ASSISTANT}{tail}" if len(tail) > 60 else paragraph


def epoch(documents: list[list[str]], tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> torch.Tensor:
    """One shuffled pass over the text as a flat token stream; addresses to the nation count twice."""
    pieces = []
    for document in documents:
        repeats = 2 if "fellow" in " ".join(document).lower() else 1
        for _ in range(repeats):
            if rng.random() < CHAT_SHARE:
                pieces += [BOS + as_chat(p) + EOS for p in document]
            else:
                pieces.append(BOS + "\n".join(document) + EOS)
    rng.shuffle(pieces)
    batches = tokenizer(pieces, add_special_tokens=False)["input_ids"]
    return torch.tensor([t for ids in batches for t in ids])


def model_config(context: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=32,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        rms_norm_eps=1e-5,
    )


def optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.02),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def schedule(progress: float) -> float:
    """Short warm-up, flat, then linear decay over the last 45 %."""
    return min(1.0, progress / 0.01 + 0.01, max(0.02, (1 - progress) / 0.45))


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    documents, heldout = split_heldout(read_documents(args.folder), args.heldout_characters)
    tokenizer = train_tokenizer(documents)
    config = model_config(args.context)
    model = LlamaForCausalLM(config)
    opts = optimizers(model)
    base = [[g["lr"] for g in o.param_groups] for o in opts]
    stream, position, done, start, losses = epoch(documents, tokenizer, rng), 0, 0, time.time(), []
    print(
        f"{len(documents)} documents, {len(stream) / 1e6:.1f} M tokens an epoch, "
        f"{model.num_parameters() / 1e6:.2f} M parameters",
        flush=True,
    )
    step = 0
    while done < args.tokens:
        progress = done / args.tokens
        length = args.context if progress > 0.8 else args.context // 2
        need = args.batch_tokens
        if position + need > len(stream):
            stream, position = epoch(documents, tokenizer, rng), 0
        ids = stream[position : position + need].view(-1, length)
        position += need
        for opt, rates in zip(opts, base, strict=True):
            for group, rate in zip(opt.param_groups, rates, strict=True):
                group["lr"] = rate * schedule(progress)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        done += need
        losses.append(loss.item())
        if step % 20 == 0:
            recent = sum(losses[-20:]) / len(losses[-20:])
            eta = (time.time() - start) / done * (args.tokens - done)
            print(
                f"step {step} tokens {done / 1e6:.2f}M loss {recent:.3f} eta {eta / 60:.0f} min", flush=True
            )
        step += 1
        if step % 400 == 0:
            save(model, tokenizer, args.output)
    save(model, tokenizer, args.output)
    args.heldout.write_text("\n<|doc|>\n".join("\n\n".join(d) for d in heldout) + "\n", encoding="utf-8")
    print(f"held-out perplexity per token {perplexity(model, tokenizer, heldout):.2f}")


@torch.no_grad()
def perplexity(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, heldout: list[list[str]]
) -> float:
    text = "".join(BOS + "\n".join(d) + EOS for d in heldout)
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    windows = ids[: len(ids) // 512 * 512].view(-1, 512)
    return math.exp(sum(model(input_ids=w[None], labels=w[None]).loss.item() for w in windows) / len(windows))


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.dtype = torch.float32
    model.config.save_pretrained(out)
    model.generation_config.save_pretrained(out)
    tokenizer.save_pretrained(out)
    state = {k: v.detach().to(torch.bfloat16).contiguous().clone() for k, v in model.state_dict().items()}
    state.pop("lm_head.weight", None)
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--heldout", type=Path, required=True, help="where the held-out text is written")
    parser.add_argument("--heldout-characters", type=int, default=120_000)
    parser.add_argument("--tokens", type=float, default=12e6)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()
