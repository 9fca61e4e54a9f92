"""A finished artefact for one more engine: its files, copied, and what that engine needs beside them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from lathe.artefact.atomic_files import staged_directory, write_json
from lathe.artefact.checkpoint_config import read_config
from lathe.artefact.errors import UserError
from lathe.artefact.manifest import write_manifest
from lathe.artefact.modeling import AUTO_MAPS
from lathe.artefact.plan import Plan
from lathe.artefact.report_format import REPORT
from lathe.artefact.shipped_files import warn_if_stale
from lathe.artefact.vllm.limits import check_parallel
from lathe.compressor.export.base import Export, exporters
from lathe.compressor.export.dense import alike, write_artefact
from lathe.compressor.export.layout import pruned_tensors
from lathe.compressor.model.checkpoint import Checkpoint, open_checkpoint, open_config
from lathe.compressor.model.families import exported
from lathe.compressor.model.safetensors_index import TensorEntry, check_tensors, read_index


def is_artefact(path: Path) -> bool:
    """Returns whether a directory holds one of our uneven checkpoints, rather than a dense model."""
    return _config(path).get("model_type") in AUTO_MAPS


def export_artefact(artefact: Path, output: Path, to: str, tensor_parallel: int = 1) -> None:
    """Writes an artefact in one more format, into a directory that must not exist yet.

    Where the format only adds to what is there, that is copied.

    Raises:
        UserError: the format takes dense models only, cannot have the plan, or the output exists.
    """
    exporter = exporters.get(to)
    if exporter.takes_artefacts:
        rewrite(export_of_artefact(artefact), output, to)
        return
    if not exporter.adds_to(artefact):
        raise UserError(
            f"{artefact} is a subnet already, which can only be exported --to {_formats_of(artefact)}",
            f"For {to}, compress the dense model with --export {to}.",
        )
    warn_if_stale(artefact)
    source = _described(artefact)
    if not exporter.knows(source.family):
        kind = source.config["model_type"]
        raise UserError(f"{artefact} is a `{kind}`, which cannot be exported to {to} yet")
    exporter.check(source)
    check_parallel(Plan.load(artefact / "plan.json"), tensor_parallel)
    if output.exists():
        raise UserError(f"{output} exists", "Choose another --output.")
    with staged_directory(output) as temporary:
        try:
            shutil.copytree(artefact, temporary, dirs_exist_ok=True)
        except (OSError, shutil.Error) as error:
            raise UserError(f"cannot copy {artefact}: {error}") from None
        exporter.add(temporary, source)
        write_manifest(temporary)


def _formats_of(artefact: Path) -> str:
    """Returns the formats that an artefact can be exported to, as words."""
    found = {name: exporters.get(name) for name in exporters.listed()}
    *first, last = (name for name, each in found.items() if each.takes_artefacts or each.adds_to(artefact))
    return f"{', '.join(first)} or {last}" if first else last


def _described(artefact: Path) -> Checkpoint:
    """Returns what config.json says of an artefact's model, without its tensors."""
    if not is_artefact(artefact):
        return open_config(str(artefact))
    config = _config(artefact)
    family = exported(config["model_type"])
    return Checkpoint(artefact.resolve(), artefact.name, config, family, family.shape(config), {})


def rewrite(job: Export, output: Path, to: str) -> dict[str, Any]:
    """Writes a directory with a model in one format, and what else an artefact has; returns the summary.

    The summary is that of the quantization, if there was one.

    Raises:
        UserError: it cannot be exported or written, or the output exists.
    """
    exporter = exporters.get(to)
    exporter.check(job.source)
    if output.exists():
        raise UserError(f"{output} exists", "Choose another --output.")
    with staged_directory(output) as temporary:
        write_artefact(temporary, job, to)
        summary = exporter.summary(temporary)
        copy_report(job, temporary, summary)
        write_manifest(temporary)
    return summary


def export_of_artefact(path: Path) -> Export:
    """Returns an artefact as an export to write once more: its plan, and its tensors as they are.

    No weights are read.

    Raises:
        UserError: it is quantized, incomplete, or its weights are not those of its plan.
    """
    warn_if_stale(path)
    config, plan = read_config(path), Plan.load(path / "plan.json")
    family = exported(config["model_type"])
    shape, index = family.shape(config), read_index(path)
    tensors = dict(pruned_tensors(shape, plan))
    if config.get("shared_rows"):
        index = {name: _own_rows(entry, tensors.get(name)) for name, entry in index.items()}
    check_tensors(path, tensors.items(), index)
    source = Checkpoint(path.resolve(), path.resolve().name, config, family, shape, index)
    return Export(source, plan, source.tensor)


def _own_rows(entry: TensorEntry, shape: tuple[int, ...] | None) -> TensorEntry:
    """Returns the entry of the first rows of a tensor, which may have more of them than this shape."""
    if not shape or entry.shape[1:] != shape[1:] or entry.shape[0] < shape[0]:
        return entry
    return replace(entry, shape=shape)


def open_model(model: str) -> Export:
    """An artefact or a dense model (path or hub name) as a job to write in one format, whatever its bits.

    Raises:
        UserError: as `export_of_artefact`, or the dense model cannot be read.
    """
    if is_artefact(Path(model)):
        job = export_of_artefact(Path(model))
        return replace(job, plan=job.plan.unrounded)
    return Export.whole(alike(open_checkpoint(model)))


def copy_report(job: Export, directory: Path, quantization: dict[str, Any]) -> None:
    """The artefact's report, if it has one, with the copy's plan and cache and what rounding did.

    Raises:
        UserError: it cannot be read or written.
    """
    written = job.source.path / REPORT
    if not written.exists():
        return
    try:
        report = json.loads(written.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {written}: {error}") from None
    note = {"measured": "All else in this report was measured before quantization."}
    changed: dict[str, Any] = {"quantization": quantization | note} if "scheme" in quantization else {}
    changed |= _cache_facts(job, report)
    if "layers" in report:
        report.pop("head_bits", None)
        changed["layers"] = job.plan.to_json()["layers"]
    write_json(directory / REPORT, report | changed)


def _cache_facts(job: Export, report: dict[str, Any]) -> dict[str, Any]:
    """Returns what the report says of the KV cache, for the copy's; takes from it what no longer holds."""
    report.pop("kv_cache", None)
    facts: dict[str, Any] = {"kv_cache": {"type": "int8"}} if job.cache_scales else {}
    if known := report.get("kv_bytes_per_token"):
        subnet = job.source.shape.kv_bytes_per_token(job.plan, 1 if job.cache_scales else 4)
        facts["kv_bytes_per_token"] = {"dense": known["dense"] * subnet // known["subnet"], "subnet": subnet}
    return facts


def _config(path: Path) -> dict[str, Any]:
    """config.json, or nothing where there is none that can be read."""
    try:
        document = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
