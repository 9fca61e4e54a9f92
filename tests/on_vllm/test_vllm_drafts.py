"""A subnet that drafts for its dense parent: the parent's answers, and how many drafts it accepts."""

from __future__ import annotations

from pathlib import Path

from answers import NEW, ask, engine, prompts
from test_vllm_parity import TINY
from transformers import AutoTokenizer
from vllm import LLM

from conftest import DEMO
from lathe.compressor.export.checkpoint import export_checkpoint
from support.tiny_llama import PLANS, checkpoint, pruned

TEXTS = (
    "The boy went to the",
    "In this paper we show that",
    "def main(",
    "She said that she",
    "Once upon a time",
)


def speculation(draft: Path) -> dict[str, object]:
    return {"method": "draft_model", "model": str(draft), "num_speculative_tokens": 3}


def counted(llm: LLM) -> dict[str, float]:
    return {
        m.name.removeprefix("vllm:spec_decode_"): m.value
        for m in llm.get_metrics()
        if "spec_decode_num_" in m.name and hasattr(m, "value")
    }


def test_a_random_draft_changes_no_answer(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "dense", **TINY)
    export_checkpoint(tmp_path / "draft", pruned(source, PLANS["mixed"]))
    with engine(source.path) as llm:
        alone = ask(llm, prompts(), score_prompts=False)
    with engine(source.path, speculative_config=speculation(tmp_path / "draft")) as llm:
        helped = ask(llm, prompts(), score_prompts=False)
        assert counted(llm)["num_draft_tokens"] > 0
    assert [answer.new for answer in helped] == [answer.new for answer in alone]


def test_a_trained_subnet_is_often_right(artefact: Path) -> None:
    """The demo model at 60 %, made with little text: about a quarter of its drafts are accepted."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "model")
    asked = [tokenizer(text)["input_ids"] for text in TEXTS]
    with engine(DEMO / "model") as llm:
        alone = ask(llm, asked, score_prompts=False)
    with engine(DEMO / "model", speculative_config=speculation(artefact)) as llm:
        helped = ask(llm, asked, score_prompts=False)
        found = counted(llm)
    assert [answer.new for answer in helped] == [answer.new for answer in alone]
    assert found["num_accepted_tokens"] / found["num_draft_tokens"] > 0.15
    assert found["num_drafts"] < len(TEXTS) * (NEW - 1)
