"""Small tokenizers of every kind that can be cut, trained here, and a random Llama with one of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<pad>", "</s>", "<s>", "<unk>", "<|user|>", "<unused0>", "<unused1>"]
BYTES = [f"<0x{value:02X}>" for value in range(256)]
SENTENCES = (
    "the library lends books to everyone who lives nearby and a reader returns them after three weeks "
    "water boils at hundred degrees rivers carry water to the sea where ships sail between the islands "
    "children laughed while their teacher explained how numbers multiply and why seven is an odd number "
    "naïve café über Straße groß schöner Äpfel élève déjà"
)
WORDS = SENTENCES.split()
TEXT = [" ".join(WORDS[i:] + WORDS[:i]) + ". \n" for i in range(len(WORDS))]
CHAT = "{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}Answer kindly:"


def byte_level() -> Tokenizer:
    """As GPT-2's, Llama 3's and SmolLM2's."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=700, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 2)]
    )
    return made


def sentencepiece_bpe() -> Tokenizer:
    """As Gemma's and Llama 2's: spaces are letters, and unknown characters fall back to bytes."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.train_from_iterator(
        [word + " " for line in TEXT for word in line.split()], trainers.BpeTrainer(vocab_size=400)
    )
    model = json.loads(trained.to_str())["model"]
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *BYTES, *model["vocab"]])}
    merges = [tuple(merge) for merge in model["merges"]]
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens(SPECIAL)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    return made


def unigram() -> Tokenizer:
    """As T5's and ALBERT's."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.train_from_iterator(
        TEXT, trainers.UnigramTrainer(vocab_size=400, special_tokens=SPECIAL, unk_token="<unk>")
    )
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return made


def word_piece() -> Tokenizer:
    """As BERT's."""
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    made.train_from_iterator(TEXT, trainers.WordPieceTrainer(vocab_size=400, special_tokens=SPECIAL))
    made.post_processor = processors.BertProcessing(("</s>", 1), ("<s>", 2))
    return made


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level BPE": byte_level,
    "SentencePiece BPE": sentencepiece_bpe,
    "Unigram": unigram,
    "WordPiece": word_piece,
}


def save_model(directory: Path, tokenizer: Tokenizer, **changes: Any) -> Path:
    """A random Llama with a tokenizer; `changes` are of its config."""
    torch.manual_seed(0)
    config: dict[str, Any] = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    }
    model = LlamaForCausalLM(LlamaConfig(**config | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    model.save_pretrained(directory)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=SPECIAL[4:],
        chat_template=CHAT,
    ).save_pretrained(directory)
    return directory
