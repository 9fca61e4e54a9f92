"""Private memory moves into huge pages where nearly all of one is in use."""

import mmap
from pathlib import Path

import numpy as np
import pytest

from lathe.artefact import huge_pages as module
from lathe.artefact.huge_pages import huge_pages

_MIB = 1 << 20


def _figure(name: str) -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def _private(mebibytes: int) -> mmap.mmap:
    return mmap.mmap(-1, mebibytes * _MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _always() -> bool:
    enabled = module._SETTINGS / "enabled"
    return enabled.is_file() and "[always]" in enabled.read_text()


def _has_collapse() -> bool:
    if not module.huge_page_bytes():
        return False
    memory = _private(8)
    memory.write(b"x" * len(memory))
    try:
        memory.madvise(module._COLLAPSE)
    except OSError:
        return False
    return True


needs_collapse = pytest.mark.skipif(not _has_collapse(), reason="the kernel has no MADV_COLLAPSE")


@needs_collapse
def test_memory_that_is_in_use_moves_and_keeps_its_values() -> None:
    before = _figure("AnonHugePages:")
    with huge_pages():
        memory = _private(64)
        values = np.frombuffer(memory, np.uint32)
        values[:] = np.arange(len(values))
    assert _figure("AnonHugePages:") - before >= 32 * _MIB
    assert np.array_equal(values, np.arange(len(values), dtype=np.uint32))


@needs_collapse
def test_memory_that_is_reserved_stays_without_pages() -> None:
    with huge_pages():
        memory = _private(64)
        for place in range(0, len(memory), 64 << 10):
            memory[place] = 1
        resident = _figure("Rss:")
    assert _figure("Rss:") - resident < 8 * _MIB


@needs_collapse
def test_memory_from_before_is_left_as_it_is() -> None:
    memory = _private(64)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    memory.write(b"x" * len(memory))
    before = _figure("AnonHugePages:")
    with huge_pages():
        pass
    assert _figure("AnonHugePages:") - before < 8 * _MIB


@pytest.mark.skipif(_always(), reason="huge pages come by themselves here")
def test_never_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "enabled").write_text("always madvise [never]\n")
    (tmp_path / "hpage_pmd_size").write_text("2097152\n")
    monkeypatch.setattr(module, "_SETTINGS", tmp_path)
    before = _figure("AnonHugePages:")
    with huge_pages():
        memory = _private(64)
        memory.write(b"x" * len(memory))
    assert _figure("AnonHugePages:") - before < 8 * _MIB


def test_a_system_without_huge_pages_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SETTINGS", tmp_path)
    with huge_pages():
        assert module.huge_page_bytes() == 0
