"""The comparison's loop: methods, keeps and seeds, a row each, kept on disk as it goes."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.quality.memory import Peak
from benchmarks.quality.product import Product, options_for
from benchmarks.quality.score import Judge, machine, windows_of
from benchmarks.quality.setting import Setting, Subnet, baselines
from benchmarks.quality.zeroshot import Exam, mean_accuracy
from lathe.artefact.atomic_files import write_json
from lathe.artefact.errors import UserError
from lathe.compressor.compute.progress import Progress
from lathe.compressor.latency.workload import parse_share
from lathe.compressor.search.method import methods


class Contest:
    """Rows of one model and calibration text; those that the output file has are kept."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        pairs = (pair.split("=") for pair in args.evaluations.split(",") if pair)
        self._counts = {method: int(number) for method, number in pairs}
        self._asked = args.methods.split(",")
        for name in self._asked:
            if name not in baselines.known():
                methods.get(name)
        self._exam = None
        if args.tasks:
            self._exam = Exam.open(args.model, args.tasks, args.task_path, args.limit)
        self._dense_tasks: dict[str, dict[str, float]] | None = None
        self.rows: list[dict[str, Any]] = self._earlier()

    def run(self, seed: int) -> None:
        """All methods and keeps that have no rows yet."""
        args = self._args
        todo = [(m, k) for m in self._asked for k in args.keeps.split(",") if not self._has(m, k, seed)]
        if not todo:
            return
        product = Product.open(
            options_for(args.model, args.text, args.tokens, seed, args.out.parent / "work"), Progress()
        )
        setting = product.setting()
        judges = {
            name: Judge(setting, windows_of(setting, name, args.windows)) for name in args.eval.split(",")
        }
        if self._exam and self._dense_tasks is None:
            self._dense_tasks = self._exam.results(setting, setting.subnet(list(setting.layers)))
        for method, keep in todo:
            self._row(product, setting, method, keep, judges)
        product.context.run_dir.close()

    def _row(
        self,
        product: Product,
        setting: Setting,
        method: str,
        keep: str,
        judges: dict[str, Judge],
    ) -> None:
        torch.manual_seed(setting.seed)
        start, peak = time.perf_counter(), Peak()
        try:
            subnet = self._make(product, setting, method, parse_share(keep))
        except UserError as error:
            print(f"  {method} {keep} seed {setting.seed}: no row. {error}")
            return
        facts = {
            "method": method,
            "keep": keep,
            "seed": setting.seed,
            "kept": subnet.parameters / setting.dense_parameters,
            "candidates": subnet.candidates,
            "evaluations": self._counts.get(method),
            "seconds": round(time.perf_counter() - start, 1),
            "peak_memory_bytes": peak.bytes(),
            **({"weight_bytes": subnet.weight_bytes} if subnet.weight_bytes is not None else {}),
            **({"plan": subnet.plan.to_json()["layers"]} if subnet.plan else {}),
            **subnet.facts,
            **self._accuracies(setting, subnet),
        }
        for text, judge in judges.items():
            scores = judge.score(subnet.hidden)
            self.rows.append(
                {
                    **facts,
                    "text": Path(text).name,
                    "increase": scores.loss - judge.dense_loss,
                    **asdict(scores),
                    "dense_loss": judge.dense_loss,
                }
            )
            print(
                f"  {method} {keep} seed {setting.seed}, {Path(text).name}: "
                f"{scores.loss - judge.dense_loss:+.4f} nats/token"
            )
        self._write()

    def _accuracies(self, setting: Setting, subnet: Subnet) -> dict[str, Any]:
        if self._exam is None or self._dense_tasks is None:
            return {}
        found = self._exam.results(setting, subnet)
        accuracy, dense = mean_accuracy(found), mean_accuracy(self._dense_tasks)
        return {"accuracy": accuracy, "dense_accuracy": dense, "tasks": found}

    def _make(self, product: Product, setting: Setting, method: str, keep: float) -> Subnet:
        setting = replace(setting, evaluations=self._counts.get(method))
        if method in baselines.known():
            return baselines.get(method)(setting, keep)
        return product.subnet(setting, method, keep)

    def _has(self, method: str, keep: str, seed: int) -> bool:
        asked = (method, keep, seed, self._counts.get(method))
        return any((r["method"], r["keep"], r["seed"], r.get("evaluations")) == asked for r in self.rows)

    def _subject(self) -> dict[str, Any]:
        args = self._args
        return {
            "model": args.model,
            "calibration": args.text,
            "calibration_tokens": args.tokens,
            "evaluation": args.eval,
            "evaluation_windows": args.windows,
            "tasks": args.tasks or None,
            "items_per_task": args.limit if args.tasks else None,
        }

    def _earlier(self) -> list[dict[str, Any]]:
        if not self._args.out.is_file():
            return []
        document = json.loads(self._args.out.read_text())
        if {k: document.get(k) for k in self._subject()} != self._subject():
            sys.exit(f"error: {self._args.out} holds another comparison. Give another --out, or remove it.")
        self._dense_tasks = document.get("dense_tasks")
        return list(document["rows"])

    def _write(self) -> None:
        self._args.out.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "command": shlex.join(["python", "-m", "benchmarks.quality", *sys.argv[1:]]),
            **self._subject(),
            "unit": "nats per token",
            **({"dense_tasks": self._dense_tasks} if self._dense_tasks else {}),
            "machine": machine(),
            "rows": self.rows,
        }
        write_json(self._args.out, document)
