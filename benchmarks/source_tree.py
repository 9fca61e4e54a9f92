"""The source of this repository in a folder: as it lies here, or of another commit; and its command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from lathe.artefact.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class SourceTree:
    """A folder with the source, and the commit that it is of.

    Attributes:
        commit: its full hash; with "+" where files were changed since.
    """

    path: Path
    commit: str

    def command(self, *arguments: str) -> list[str]:
        """Returns the command line of `lathe ARGUMENTS`, run from this source.

        The interpreter, and with it every dependency, is the one that runs here.
        """
        return [sys.executable, "-m", self.module, *arguments]

    @property
    def module(self) -> str:
        """The module that is the command line: earlier commits had no package `lathe`."""
        return "lathe" if (self.path / "lathe").is_dir() else "compressor.cli.main"

    def environment(self, cache: Path) -> dict[str, str]:
        """Returns the variables to run it with, its caches in a folder of their own."""
        return os.environ | {"PYTHONPATH": str(self.path), "LATHE_CACHE": str(cache)}


def checkout(revision: str, folder: Path) -> SourceTree:
    """Writes the files of a commit to a new folder.

    Raises:
        UserError: this repository has no such commit.
    """
    try:
        commit = _git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").decode().strip()
    except subprocess.CalledProcessError:
        raise UserError(f"{ROOT} has no commit {revision}", "Fetch it, or name another one.") from None
    folder.mkdir(parents=True)
    archive = ["git", "-C", str(ROOT), "archive", "--format=tar", commit]
    with (
        subprocess.Popen(archive, stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as files,
    ):
        files.extractall(folder, filter="data")
    return SourceTree(folder, commit)


def snapshot(folder: Path) -> SourceTree:
    """Copies this tree to a new folder, changed and new files included: later edits do not reach it."""
    commit = _git("rev-parse", "HEAD").decode().strip()
    changed = _git("status", "--porcelain").strip()
    names = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard").decode().split("\0")
    for name in filter(None, dict.fromkeys(names)):
        source, target = ROOT / name, folder / name
        if source.is_symlink() or source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    return SourceTree(folder, commit + ("+" if changed else ""))


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True).stdout
