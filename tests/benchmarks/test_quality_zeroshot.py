"""Zero-shot tasks: log-likelihoods against plain ones, accuracies against lm-eval's own model."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from test_quality_contest import contest
from tiny_setting import GEMMA, make_setting

from benchmarks.quality import score, zeroshot
from benchmarks.quality.packing import packed
from benchmarks.quality.setting import Setting, baselines
from benchmarks.quality.table import table
from benchmarks.quality.zeroshot import Answers, Request
from support.compress_command import make_tiny
from support.task_items import write_items

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: items.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
GROUP = "group: both\ntask: [foxes, boxes]\naggregate_metric_list: [{metric: acc, weight_by_size: false}]\n"


def requests() -> list[Request]:
    """Of all lengths, some with a context in common, some with the same input."""
    rng, found = random.Random(0), []
    for _ in range(8):
        context = [rng.randrange(120) for _ in range(rng.randrange(1, 40))]
        for length in (1, 1, 3, 9):
            found.append((("", ""), context, [rng.randrange(120) for _ in range(length)]))
    rng.shuffle(found)
    return found


def plainly(setting: Setting, request: Request, longest: int) -> tuple[float, bool]:
    """One request by itself, all positions read."""
    _, context, asked = request
    tokens = torch.tensor([*context, *asked][-(longest + 1) :])
    logprobs = setting.subnet(list(setting.layers)).logprobs(tokens[None, :-1])[0, -len(asked) :]
    wanted = tokens[-len(asked) :]
    return float(logprobs.gather(-1, wanted[:, None]).sum()), bool((logprobs.argmax(-1) == wanted).all())


@pytest.fixture(scope="module", params=["Llama", "Gemma 3", "OPT"])
def any_setting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    changes = {"Llama": {}, "Gemma 3": GEMMA, "OPT": {"family": "opt"}}[request.param]
    return make_setting(tmp_path_factory.mktemp("dense"), **changes)


@pytest.mark.parametrize("longest", [128, 20])
@pytest.mark.parametrize("tokens", [1, 100, 2048])
def test_likelihoods_are_those_of_each_request_alone(
    any_setting: Setting, tokens: int, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = any_setting
    monkeypatch.setattr(zeroshot, "TOGETHER", tokens)
    monkeypatch.setattr(score, "_SLICE_BYTES", 5 * 4 * 120)
    asked = requests()
    likeliest = setting.subnet(list(setting.layers)).logprobs(torch.tensor([[5, 6]]))[0, -1].argmax()
    asked.append((None, [5, 6], [int(likeliest)]))
    answers = Answers(setting, setting.subnet(list(setting.layers))).of(asked, longest)
    expected = [plainly(setting, request, longest) for request in asked]
    assert [a for a, _ in answers] == pytest.approx([e for e, _ in expected], abs=1e-4)
    assert [hit for _, hit in answers] == [hit for _, hit in expected]
    assert answers[-1][1]


def test_equal_inputs_run_once(setting: Setting) -> None:
    subnet, seen = setting.subnet(list(setting.layers)), []

    def hidden(tokens: torch.Tensor) -> torch.Tensor:
        seen.extend(tokens.tolist())
        return setting.hidden(setting.layers, tokens)

    object.__setattr__(subnet, "hidden", hidden)
    Answers(setting, subnet).of([(None, [1, 2, 3], [token]) for token in range(10)], 128)
    assert seen == [[1, 2, 3]]


def test_a_beginning_in_common_runs_once() -> None:
    question, other = tuple(range(20)), tuple(range(50, 90))
    texts = [(*question, 7), (*question, 7, 8), (*question, 9, 9, 9), other, (*other[:10], *range(30))]
    rows = packed(texts)
    assert sorted(map(len, rows)) == [20 + 1 + 2 + 3, 40, 40]
    assert sorted(text for row in rows for text in row.texts) == sorted(texts)
    for row in rows:
        for text, places in zip(row.texts, row.places(), strict=True):
            assert torch.tensor(row.tokens)[places].tolist() == list(text)
            assert torch.tensor(row.positions)[places].tolist() == list(range(len(text)))


def make_tasks(directory: Path) -> Path:
    directory.mkdir()
    for name in ("foxes", "boxes"):
        (directory / f"{name}.yaml").write_text(TASK.format(name=name))
    (directory / "both.yaml").write_text(GROUP)
    write_items(directory / "items.jsonl", ["dogs", "a box of boxes", "7"])
    return directory


@pytest.mark.filterwarnings("ignore")
def test_rows_have_accuracies_and_the_dense_ones_are_lm_evals_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval.models.huggingface", reason="needs lathe[eval]")
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    tiny, tasks, out = make_tiny(tmp_path), make_tasks(tmp_path / "tasks"), tmp_path / "q.json"
    baselines.known()
    monkeypatch.setitem(baselines._values, "dense-again", lambda s, _: s.subnet(list(s.layers)))
    asked = contest(tiny, out, methods="dense-again", tasks="both", task_path=tasks, limit=20)
    asked.run(0)
    monkeypatch.chdir(tasks)
    expected = simple_evaluate(
        "hf",
        model_args=f"pretrained={tiny.model},dtype=float32",
        tasks=["both"],
        task_manager=TaskManager(include_path=str(tasks)),
        limit=20,
        device="cpu",
    )["results"]
    document = json.loads(out.read_text())
    assert document["items_per_task"] == 20
    for found in (document["dense_tasks"], document["rows"][0]["tasks"]):
        assert found.keys() == {"foxes", "boxes"}
        for name, numbers in found.items():
            assert numbers["acc"] == expected[name]["acc,none"]
            assert numbers["acc_norm"] == expected[name]["acc_norm,none"]
    row = document["rows"][0]
    assert row["accuracy"] == row["dense_accuracy"] == pytest.approx(expected["both"]["acc,none"])
    assert f"Mean accuracy of 2 zero-shot tasks in %, {100 * row['accuracy']:.1f} dense" in table(asked.rows)
