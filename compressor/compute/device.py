"""Devices on which layers are run and matrices solved: the processor, or a GPU of this machine.

A device holds layers, Gram matrices, hidden states and everything computed from them; tokens, rankings and
indices of kept widths are in the machine's memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lathe.artefact.errors import UserError

CPU = torch.device("cpu")


def parse_device(text: str) -> torch.device:
    """Parses `cpu`, or an accelerator that PyTorch sees (`cuda`), with or without its number.

    Raises:
        UserError: there is no such device here.
    """
    try:
        asked = torch.device(text)
    except RuntimeError:
        raise UserError(f"--device {text} is not a device", "Give cpu, cuda or cuda:1.") from None
    if asked.type == "cpu":
        return CPU
    here = torch.accelerator.current_accelerator(check_available=True)
    if here is None or here.type != asked.type:
        raise UserError(
            f"--device {text}: PyTorch {torch.__version__} sees no such GPU here",
            "Install PyTorch's build for it, or leave --device out.",
        )
    if not hasattr(torch.get_device_module(asked), "mem_get_info"):
        raise UserError(
            f"--device {text}: PyTorch does not tell how much memory is free there", "Leave --device out."
        )
    index, count = asked.index or 0, torch.accelerator.device_count()
    if index >= count:
        raise UserError(f"--device {text}: this machine has {count}, counted from 0", "Give one of them.")
    return torch.device(asked.type, index)


def free_bytes(device: torch.device) -> int:
    """Returns the free memory of an accelerator."""
    return int(torch.get_device_module(device).mem_get_info(device)[0])


class DeviceMemory:
    """The most of an accelerator's memory that tensors took, by stage, in bytes."""

    def __init__(self, where: torch.device) -> None:
        self.where = where
        self.peaks: dict[str, int] = {}

    def start(self) -> None:
        """Starts a stage."""
        torch.get_device_module(self.where).reset_peak_memory_stats(self.where)

    def end(self, stage: str) -> int:
        """Ends the stage and returns its peak in bytes."""
        peak = int(torch.get_device_module(self.where).max_memory_allocated(self.where))
        self.peaks[stage] = max(self.peaks.get(stage, 0), peak)
        return peak


_AGAIN = "Run the command again when it is free, or without --device: what was finished is kept."


@contextmanager
def out_of_memory_as_user_error(device: torch.device, remedy: str = _AGAIN) -> Iterator[None]:
    """Ends the block with an error of one sentence where a device's memory is full.

    Raises:
        UserError: it was full.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(f"the memory of {device} was full", remedy) from error
