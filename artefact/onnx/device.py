"""Devices that compute a graph: the CPU, or one with memory of its own.

On a device the KV caches stay in its memory, and the whole graph runs in float16: ONNX Runtime's attention
has no kernel for float32 there.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnxruntime as ort

from lathe.artefact.errors import UserError


@dataclass(frozen=True, slots=True)
class Device:
    """A device that ONNX Runtime can use.

    Attributes:
        name: ONNX Runtime's name of the memory.
        half: Whether the graph is run in float16.
        shares_memory: Whether the next run sees what is written into a bound array.
    """

    name: str
    provider: str
    half: bool
    shares_memory: bool


CPU = Device("cpu", "CPUExecutionProvider", half=False, shares_memory=True)
CUDA = Device("cuda", "CUDAExecutionProvider", half=True, shares_memory=False)
DEVICES = {device.name: device for device in (CPU, CUDA)}


def check_installed(device: Device) -> None:
    """Checks that this ONNX Runtime was built for the device; loads the libraries that it needs.

    Raises:
        UserError: it was not.
    """
    if device.provider not in ort.get_available_providers():
        raise UserError(
            f"ONNX Runtime {ort.__version__} as installed here has no {device.provider}",
            "For NVIDIA GPUs: `pip uninstall onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu`.",
        )
    if device is CUDA:
        ort.preload_dlls()


def check_used(session: ort.InferenceSession, device: Device) -> None:
    """Checks that a session runs where it should: ONNX Runtime falls back to the CPU by itself.

    Raises:
        UserError: it does not.
    """
    if device.provider not in session.get_providers():
        raise UserError(
            f"ONNX Runtime cannot use its {device.provider} here",
            "It needs a GPU, its driver, and the CUDA and cuDNN that this ONNX Runtime was built for.",
        )
