"""A family of artefacts of one parent, widest first: `family.json` over the directories of its plans."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from lathe.artefact.atomic_files import write_json
from lathe.artefact.errors import UserError
from lathe.artefact.manifest import MANIFEST, read_json

FORMAT = "lathe-family/1"
FAMILY = "family.json"
PLANS = "plans"
"""The folder of the plans' directories."""
PLAN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
NAME_RULE = "A name is made of letters, digits, dots, hyphens and underscores, the first a letter or digit."
"""What the name of a plan, or of a domain, is made of: it is a part of the name of a served model."""
_AGAIN = "Compress again, or mend it by hand."


@dataclass(frozen=True, slots=True)
class FamilyPlan:
    """One subnet of a family.

    Attributes:
        name: such as 1.2x; after a colon it is a part of the name of the served model.
        path: the directory of its artefact, relative to the family's, with `/`.
        predicted_ms: the latency by the table of the run, in milliseconds; None where it is not known.
        measured_ms: the latency of the export, in milliseconds; None where it was not measured.
        loss_increase: over the dense model's, in nats a token of held-out text; None where it is not known.
        domain: the kind of text that it is for; None: any.
    """

    name: str
    path: str
    predicted_ms: float | None = None
    measured_ms: float | None = None
    loss_increase: float | None = None
    domain: str | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """The subnets of one directory.

    Attributes:
        path: the directory.
        plans: its subnets, widest first.
    """

    path: Path
    plans: tuple[FamilyPlan, ...]

    def directory(self, plan: FamilyPlan) -> Path:
        """Returns the directory of a subnet's artefact."""
        return self.path / plan.path


def is_family(path: Path) -> bool:
    """Returns whether a directory states that it is a family."""
    return (path / FAMILY).is_file()


def read_family(path: Path) -> Family:
    """Reads the list of subnets of a directory; of their own files, only whether there is a manifest.

    Raises:
        UserError: it cannot be read, has another format, or one of its plans cannot be used.
    """
    file = path / FAMILY
    document = read_json(file)
    if (written := document.get("format")) != FORMAT:
        raise UserError(
            f"{file} has the format {written!r}, not {FORMAT!r}",
            "Use the Lathe that wrote it, or compress again.",
        )
    entries = document.get("plans")
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{file} lists no plans", _AGAIN)
    family = Family(path, tuple(_plan(file, entry) for entry in entries))
    _check(file, family)
    return family


def write_family(path: Path, plans: Sequence[FamilyPlan], **facts: Any) -> None:
    """Writes `family.json` over directories that are complete.

    Args:
        path: the family's directory.
        plans: its subnets, widest first.
        facts: what else the document says.

    Raises:
        UserError: one of the plans cannot be used, or the file cannot be written.
    """
    family = Family(path, tuple(plans))
    _check(path / FAMILY, family)
    write_json(path / FAMILY, {"format": FORMAT, "plans": [asdict(plan) for plan in plans]} | facts)


def _plan(file: Path, entry: Any) -> FamilyPlan:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise UserError(f"{file} lists a plan without a name", _AGAIN)
    if not isinstance(entry.get("path"), str):
        raise UserError(f"the plan {entry['name']!r} of {file} has no path", _AGAIN)
    stated: dict[str, Any] = {field.name: entry.get(field.name) for field in fields(FamilyPlan)}
    return FamilyPlan(**stated)


def _check(file: Path, family: Family) -> None:
    """Checks what can be checked without opening an artefact.

    Raises:
        UserError: names the first plan that cannot be used.
    """
    if not family.plans:
        raise UserError(f"{file} lists no plans", _AGAIN)
    names: set[str] = set()
    places: set[Path] = set()
    for plan in family.plans:
        _check_fields(file, plan)
        if plan.name in names:
            raise UserError(f"{file} lists two plans with the name {plan.name!r}", _AGAIN)
        place = _place(file, family, plan)
        if place in places:
            raise UserError(f"{file} lists {plan.path} twice", _AGAIN)
        names.add(plan.name)
        places.add(place)


def _check_fields(file: Path, plan: FamilyPlan) -> None:
    if not PLAN_NAME.fullmatch(plan.name):
        raise UserError(
            f"{file} lists a plan with the name {plan.name[:100]!r}",
            NAME_RULE,
        )
    for name in ("predicted_ms", "measured_ms", "loss_increase"):
        value = getattr(plan, name)
        known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if value is not None and not (known and (value > 0 or name == "loss_increase")):
            raise UserError(f"the plan {plan.name!r} of {file} has the {name} {str(value)[:100]!r}", _AGAIN)
    if plan.domain is not None and (not isinstance(plan.domain, str) or not PLAN_NAME.fullmatch(plan.domain)):
        raise UserError(f"the plan {plan.name!r} of {file} has the domain {str(plan.domain)[:100]!r}", _AGAIN)


def _place(file: Path, family: Family, plan: FamilyPlan) -> Path:
    """Returns where the directory of a plan really is: below that of the family."""
    stated = PurePosixPath(plan.path)
    root, directory = family.path.resolve(), family.directory(plan)
    inside = not stated.is_absolute() and ".." not in stated.parts and stated.parts
    if not inside or not directory.resolve().is_relative_to(root):
        raise UserError(
            f"the plan {plan.name!r} of {file} is at {plan.path[:200]!r}, outside of the family's directory",
            _AGAIN,
        )
    if not (directory / MANIFEST).is_file():
        raise UserError(
            f"the plan {plan.name!r} of {file} is missing: there is no {directory / MANIFEST}",
            "Copy the whole directory, or compress again.",
        )
    return directory.resolve()
