"""First calls of functions that PyTorch takes from Intel's vector library."""

from __future__ import annotations

import torch

_FUNCTIONS = (torch.cos, torch.sin, torch.exp, torch.log, torch.sqrt, torch.erf, torch.tanh)


def first_calls() -> None:
    """Calls these functions once in one thread, which makes the library ready.

    Where several threads are in a function's first call of a process, one of them now and then computes its
    part of the result to four digits only (torch 2.13.0, findings/torch-first-cosine-may-be-rough.sh), and
    rotary positions are off for a whole run.
    """
    for function in _FUNCTIONS:
        function(torch.ones(1))
