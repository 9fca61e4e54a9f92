"""ONNX graphs with an int8 KV cache, from an artefact or a dense model and a text."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lathe.artefact.errors import UserError
from lathe.artefact.onnx.minimum_version import INT8_CACHE, check_version
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.compute.progress import Progress
from lathe.compressor.export.artefact import open_model, rewrite
from lathe.compressor.export.base import CalibrationAsked, Export, exporters, refuse_plan
from lathe.compressor.export.on_text import read_text
from lathe.compressor.model.cache_rounding import CacheScales
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.model.groups import GroupRule
from lathe.compressor.statistics.cache_scales import measure_cache_scales


@dataclass(frozen=True)
class WithInt8Cache:
    """Writes the graph of an exporter with an int8 KV cache, on calibration text.

    Attributes:
        exporter: Its name.
        asked: The text.
    """

    exporter: str
    asked: CalibrationAsked

    def __call__(
        self, model: str, output: Path, _devices: int, plan: Path | None, groups: GroupRule
    ) -> dict[str, Any]:
        """Does what a `Quantizer` does.

        Raises:
            UserError: as `quantize_onnx`, the text cannot be read, or the installed ONNX Runtime has no such
                cache.
        """
        refuse_plan(plan, self.exporter.rpartition("-")[2])
        job = replace(open_model(model), groups=groups)
        exporters.get(self.exporter).check(job.source)
        check_version(INT8_CACHE, f"the graph of {job.source.name} with an int8 KV cache")
        if output.exists():
            raise UserError(f"{output} exists", "Choose another --output.")
        scales = self._scales(job)
        return rewrite(replace(job, cache_scales=scales.__getitem__), output, self.exporter)

    def _scales(self, job: Export) -> dict[int, CacheScales]:
        """Returns the scales by layer; a layer is in memory at a time, unless the model writes the text."""
        progress = Progress(self.asked.quiet)
        windows = read_text(job.source, self.asked, progress).windows
        with tempfile.TemporaryDirectory(prefix="lathe-scales-") as directory:
            store = ArrayStore(Path(directory))
            model = LayeredModel.open(job.source, store)
            with progress.stage("scales of the KV cache: layers", len(model.layers)) as bar:
                return measure_cache_scales(model, windows, store, bar.advance)
