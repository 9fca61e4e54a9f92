"""A stand-in for NVML on a machine without a GPU: 80 GiB, 30 GiB in use, 20 GiB of it this process's.

With it on the Python path `lathe serve` reports GPU memory by its own code, so that what the board asks can
be answered. Nothing else of a GPU is pretended.
"""

import os
from types import SimpleNamespace

GIB = 2**30


def nvmlInit() -> None:  # noqa: N802  NVML's names
    pass


def nvmlDeviceGetCount() -> int:  # noqa: N802
    return 1


def nvmlDeviceGetHandleByIndex(index: int) -> int:  # noqa: N802
    return index


def nvmlDeviceGetMemoryInfo(_: int) -> SimpleNamespace:  # noqa: N802
    return SimpleNamespace(used=30 * GIB, total=80 * GIB)


def nvmlDeviceGetComputeRunningProcesses(_: int) -> list[SimpleNamespace]:  # noqa: N802
    return [SimpleNamespace(pid=os.getpid(), usedGpuMemory=20 * GIB)]
