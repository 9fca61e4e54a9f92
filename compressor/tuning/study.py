"""A study: its trials in SQLite, in Optuna's tables, held by one command at a time."""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lathe.artefact.errors import UserError

FILE, NAME = "study.sqlite3", "lathe-tune"
_MAGIC = b"SQLite format 3\0"
_REMEDY = "Close what else has it open, or choose another --output."
_WAIT = 2.0
"""Seconds to wait for another program that writes to the database."""


@dataclass(frozen=True)
class Record:
    """A trial, as the database has it.

    Attributes:
        number: Its place among the trials; the run without tuning is 0.
        point: Indices into the space; None outside of it.
        state: "complete", "dropped" after its first run, "failed", or "running".
        loss: Loss over dense, nats per token; None unless it is complete.
        facts: What else was noted of it: values, seconds, first loss, plan, error.
    """

    number: int
    point: tuple[int, ...] | None
    state: str
    loss: float | None
    facts: dict[str, Any]

    @property
    def repeated(self) -> bool:
        """True if an earlier trial has the same point, so that nothing was run."""
        return "same_as" in self.facts

    @property
    def first(self) -> float | None:
        """The loss of its first run, on fewer tokens."""
        return self.facts.get("first")

    @property
    def seconds(self) -> float:
        """What it took."""
        return float(self.facts.get("seconds", 0.0))


def need(module: str) -> None:
    """Checks that a package of the extra `tune` is installed.

    Raises:
        UserError: it is not.
    """
    if find_spec(module) is None:
        raise UserError(f"`lathe tune` needs {module}, which is not installed", "pip install 'lathe[tune]'")


@contextmanager
def open_study(directory: Path, identity: Mapping[str, Any]) -> Iterator[Any]:
    """Opens a directory's study, an `optuna.Study`, or begins one; holds it until the end of the block.

    Args:
        directory: The study's directory.
        identity: What its trials follow from, by the name that a user knows.

    Raises:
        UserError: another command or program holds it, or it is of something else.
    """
    need("optuna")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = directory / FILE
    with _held(directory):
        _check_database(path)
        try:
            storage = optuna.storages.RDBStorage(
                f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": _WAIT}}
            )
            study = optuna.create_study(storage=storage, study_name=NAME, load_if_exists=True)
            _identify(study, path, identity)
            yield study
        except optuna.exceptions.StorageInternalError as error:
            raise UserError(
                f"cannot use {path}: {_cause(error)}",
                _REMEDY,
            ) from None
        finally:
            if "storage" in locals():
                storage.engine.dispose()


@contextmanager
def _held(directory: Path) -> Iterator[None]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / "lock").open("w")
    except OSError as error:
        raise UserError(f"cannot write {directory}: {error.strerror}", "Choose another --output.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"another `lathe tune` is working on {directory}", "Wait for it, or choose another --output."
            ) from None
        yield


def _check_database(path: Path) -> None:
    """Checks that a file is a database of trials that nobody else is writing to."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb") as handle:
        if handle.read(len(_MAGIC)) != _MAGIC:
            raise UserError(f"{path} is not a database of trials", "Choose another --output.")
    try:
        with closing(sqlite3.connect(path, timeout=_WAIT)) as database:
            database.execute("BEGIN IMMEDIATE")
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
            if "studies" in tables:
                names = {name for (name,) in database.execute("SELECT study_name FROM studies")}
            else:
                names = {"another program"} if tables else set()
            database.rollback()
    except sqlite3.Error as error:
        raise UserError(f"cannot use {path}: {error}", _REMEDY) from None
    if names - {NAME}:
        raise UserError(f"{path} is the database of something else", "Choose another --output.")


def _identify(study: Any, path: Path, identity: Mapping[str, Any]) -> None:
    """Notes what a new study is of; refuses one that is of something else."""
    known = study.user_attrs.get("identity")
    if known is None:
        study.set_user_attr("identity", dict(identity))
        return
    for name in sorted(known.keys() | identity.keys()):
        if known.get(name) != identity.get(name):
            raise UserError(
                f"{path} is a study with another {name}", "Choose another --output, or remove the directory."
            )


def records(study: Any) -> list[Record]:
    """Returns all trials, those that were not run because they repeat one among them."""
    names = {"COMPLETE": "complete", "PRUNED": "dropped", "FAIL": "failed"}
    found = []
    for trial in study.get_trials(deepcopy=False):
        point = trial.user_attrs.get("point")
        found.append(
            Record(
                trial.number,
                None if point is None else tuple(point),
                names.get(trial.state.name, "running"),
                trial.value if trial.state.name == "COMPLETE" else None,
                dict(trial.user_attrs),
            )
        )
    return found


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).splitlines()[0]
