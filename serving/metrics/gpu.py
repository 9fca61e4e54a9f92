"""GPU memory as NVML reports it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Set
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

GPU_MEMORY = "lathe_gpu_memory_used_bytes"
GPU_MEMORY_HELP = "GPU memory in use, of the device or of this server's processes."
GPU_MEMORY_LABELS = ("device", "scope")
GPU_TOTAL = "lathe_gpu_memory_total_bytes"
GPU_TOTAL_HELP = "Memory of the GPU."


class Nvml:
    """Reads GPU memory from NVML; reports nothing without a GPU, a driver or permission.

    A container that hides other processes from NVML has no figures of scope "process".
    """

    def __init__(self) -> None:
        self._nvml: Any = None
        try:
            import pynvml

            pynvml.nvmlInit()
        except Exception:  # no library, no driver, no permission: all mean that there is nothing to report
            return
        self._nvml = pynvml

    def memory(self, processes: Set[int]) -> list[tuple[str, str, int]]:
        """Returns (device index, "device" | "process", bytes): all used memory, and that of `processes`."""
        found: list[tuple[str, str, int]] = []
        if self._nvml is None:
            return found
        for index in range(self._nvml.nvmlDeviceGetCount()):
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            found.append((str(index), "device", self._nvml.nvmlDeviceGetMemoryInfo(handle).used))
            ours = [
                process.usedGpuMemory
                for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
                if process.pid in processes and process.usedGpuMemory is not None
            ]
            if ours:
                found.append((str(index), "process", sum(ours)))
        return found

    def totals(self) -> list[tuple[str, int]]:
        """Returns (device index, bytes)."""
        if self._nvml is None:
            return []
        handles = map(self._nvml.nvmlDeviceGetHandleByIndex, range(self._nvml.nvmlDeviceGetCount()))
        return [(str(index), self._nvml.nvmlDeviceGetMemoryInfo(h).total) for index, h in enumerate(handles)]


class GpuMemory(Collector):
    """The memory of this process and its devices, read at every scrape; absent, not zero, without a GPU."""

    def __init__(self) -> None:
        self._nvml = Nvml()

    def describe(self) -> Iterator[GaugeMetricFamily]:
        yield from self._families()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        used, total = self._families()
        for device, scope, amount in self._nvml.memory({os.getpid()}):
            used.add_metric([device, scope], amount)
        for device, amount in self._nvml.totals():
            total.add_metric([device], amount)
        yield from (family for family in (used, total) if family.samples)

    def _families(self) -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
        return (
            GaugeMetricFamily(GPU_MEMORY, GPU_MEMORY_HELP, labels=GPU_MEMORY_LABELS),
            GaugeMetricFamily(GPU_TOTAL, GPU_TOTAL_HELP, labels=("device",)),
        )
