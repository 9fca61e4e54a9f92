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


class Nvml:
    """Nothing to report where there is no GPU, no driver or no permission. A container that hides the
    processes of others from NVML has no figures of scope "process"."""

    def __init__(self) -> None:
        self._nvml: Any = None
        try:
            import pynvml

            pynvml.nvmlInit()
        except Exception:  # no library, no driver, no permission: all mean that there is nothing to report
            return
        self._nvml = pynvml

    def memory(self, processes: Set[int]) -> list[tuple[str, str, int]]:
        """(device index, "device" | "process", bytes): all that is used, and what `processes` use of it."""
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


class GpuMemory(Collector):
    """What this process and its device use, read at every scrape; absent, not zero, without a GPU."""

    def __init__(self) -> None:
        self._nvml = Nvml()

    def describe(self) -> Iterator[GaugeMetricFamily]:
        yield self._family()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = self._family()
        for device, scope, used in self._nvml.memory({os.getpid()}):
            family.add_metric([device, scope], used)
        if family.samples:
            yield family

    def _family(self) -> GaugeMetricFamily:
        return GaugeMetricFamily(GPU_MEMORY, GPU_MEMORY_HELP, labels=GPU_MEMORY_LABELS)
