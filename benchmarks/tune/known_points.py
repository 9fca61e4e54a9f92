"""Points that have been run, kept in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lathe.artefact.atomic_files import write_json
from lathe.artefact.plan import Plan
from lathe.compressor.tuning.space import shown
from lathe.compressor.tuning.trial_runner import Outcome, TrialRunner


class KnownPoints:
    """Runs each point once; a point of the file is not run again.

    Attributes:
        losses: By point.
        seconds: What the points took to run.
    """

    def __init__(self, path: Path, run: TrialRunner) -> None:
        self._path, self._run = path, run
        document: Any = json.loads(path.read_text()) if path.exists() else {"losses": {}, "seconds": 0.0}
        self.losses: dict[str, float] = document["losses"]
        self.seconds: float = document["seconds"]

    def __call__(self, values: Mapping[str, Any], **_: Any) -> Outcome:
        """Returns the loss of a point, as `TrialRunner` does."""
        name = json.dumps(shown(values))
        if name not in self.losses:
            found = self._run(values)
            self.losses[name], self.seconds = found.loss_increase, self.seconds + found.seconds
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._path, {"losses": self.losses, "seconds": self.seconds})
        return Outcome(self.losses[name], 0.0, Plan(()), None, 0.0)
