"""The dense model as an artefact, made once and kept in a cache: what a subnet is measured against."""

from __future__ import annotations

import logging
from pathlib import Path

import psutil

from lathe.artefact.atomic_files import staged_directory, write_json
from lathe.artefact.cache_dir import cache_root
from lathe.artefact.checkpoint_config import read_config
from lathe.artefact.errors import UserError
from lathe.artefact.manifest import MANIFEST, write_manifest
from lathe.artefact.onnx.graph_format import GRAPH_FORMAT
from lathe.artefact.tokenizer import check_own_code
from lathe.compressor.agreement.model_checks import check_config
from lathe.compressor.export.base import Export, exporters
from lathe.compressor.export.checkpoint import copy_companions
from lathe.compressor.model.checkpoint import Checkpoint, open_checkpoint
from lathe.compressor.model.checkpoint_fingerprint import quick_fingerprint

log = logging.getLogger("lathe.export")

_COPIES = 3 * 4
"""Bytes of memory for a parameter with which transformers may load a whole model."""


def dense_artefact(model: str, cache_dir: Path | None = None) -> Path:
    """The artefact directory of a dense model (path or hub name), exported on the first call.

    It has everything of an artefact but the weights of the checkpoint, which stay where they are. The cache
    (`$LATHE_CACHE`, else ~/.cache/lathe) is keyed by the config and the sizes and times of the model's files.

    Raises:
        UserError: the model cannot be read or exported, or the cache not be written.
    """
    source = _checked(model)
    cache = cache_dir or cache_root()
    files = [file for file in source.path.iterdir() if file.is_file()]
    target = cache / "dense" / f"{source.name}-{quick_fingerprint(source.config, files, GRAPH_FORMAT)}"
    if (target / MANIFEST).is_file():
        return target
    alike(source)
    with staged_directory(target, shared=MANIFEST) as temporary:
        write_artefact(temporary, Export.whole(source), "onnx")
        write_manifest(temporary)
    return target


def export_dense(model: str, output: Path, to: str, tensor_parallel: int = 1) -> None:
    """The dense model through one exporter, into a directory that must not exist yet.

    Raises:
        UserError: the model cannot be read, the exporter is unknown, or the output exists.
    """
    exporters.get(to)
    source = _checked(model)
    if output.exists():
        raise UserError(f"{output} exists", "Choose another --output.")
    alike(source)
    with staged_directory(output) as temporary:
        write_artefact(temporary, Export.whole(source, tensor_parallel), to)
        write_manifest(temporary)


def alike(source: Checkpoint) -> Checkpoint:
    """The model, if transformers reads it as we do; warnings about it are logged.

    Raises:
        UserError: it does not.
    """
    from lathe.compressor.agreement.check import check_agreement

    for note in source.notes:
        log.warning(note)
    whole = _COPIES * source.shape.parameters(source.shape.dense_plan) < psutil.virtual_memory().available
    log.info("%s %s", source.name, check_agreement(source, whole))
    return source


def _checked(model: str) -> Checkpoint:
    """A checkpoint that transformers makes a model of, without code of its own; what is odd is logged."""
    source = open_checkpoint(model)
    check_own_code(source.path)
    for line in check_config(source):
        log.warning(line)
    return source


def write_artefact(directory: Path, job: Export, to: str) -> None:
    """Writes the files of one exporter, and everything else in an artefact but its manifest.

    Raises:
        UserError: the exporter is unknown or cannot write this, or the file system refuses.
    """
    source, exporter = job.source, exporters.get(to)
    exporter.check(source)
    exporter.write(directory, job)
    if not (directory / "config.json").exists():
        write_json(directory / "config.json", read_config(source.path))
        copy_companions(source.path, directory)
    write_json(directory / "plan.json", job.plan.to_json())
