"""A device that only seems to be one.

PyTorch keeps its tensors apart from the processor's, and the processor does its work. What mixes the two
fails here as it would on a GPU; what comes out is the processor's, with the same kernels (attention by plain
products). The processor keeps to float32 products, as the device does.

As a program it runs a command of ours with it:

    python tests/support/elsewhere.py compress MODEL --device elsewhere ... [-- compress MODEL ...]

$ELSEWHERE_FREE: bytes that are free on it.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

NAME = "elsewhere"
FREE = int(os.environ.get("ELSEWHERE_FREE", 2**33))
_CPU = torch.device("cpu")
_ATEN = torch.ops.aten
_COPIES = {_ATEN._to_copy.default, _ATEN.copy_.default}
_INDEXES = {
    _ATEN.index.Tensor,
    _ATEN.index_put_.default,
    _ATEN.index_put.default,
    _ATEN._index_put_impl_.default,
}
"""A GPU takes the processor's indices; the processor takes its own only."""


class There(torch.Tensor):
    """One of the device's. here: its values."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> There:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=torch.device(f"{NAME}:0"),
        )
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class Module(_DummyBackendModule):
    """What PyTorch's module of the device tells."""

    def mem_get_info(self, _where: torch.device) -> tuple[int, int]:
        return FREE, 2 * FREE

    def max_memory_allocated(self, _where: torch.device) -> int:
        return 2**20

    def reset_peak_memory_stats(self, _where: torch.device) -> None:
        pass


class Generator(torch.Generator):
    """Draws for the device it was made for. there: whether that is ours."""

    there: bool

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls)
        made.there = torch.device(device).type == NAME
        return made


class Elsewhere(TorchDispatchMode):
    """While it is on, the device is there. solved: Cholesky factors that were made, by place."""

    def __init__(self) -> None:
        super().__init__()
        self.solved: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in (_ATEN.linalg_cholesky_ex.default, _ATEN.linalg_cholesky_ex.L):
            self.solved[args[0].device.type] += 1
        return _run(func, args, kwargs or {})


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    _check(func, args, tensors)
    there = any(isinstance(tensor, There) for tensor in tensors)
    asked = next((v for v in (*args, *kwargs.values()) if isinstance(v, torch.device)), None)
    if asked is not None:
        there = asked.type == NAME
        args, kwargs = tree_map(_on_processor, (args, kwargs))
    drawn = kwargs.get("generator")
    if isinstance(drawn, Generator) and drawn.there != there:
        raise RuntimeError(f"{func} with a generator of another device")
    made = func(*tree_map(_here, args), **tree_map(_here, kwargs))
    with torch.inference_mode(False):  # what is viewed in inference mode may have been made outside
        return _returned(func, args, kwargs, made, there)


def _returned(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], made: Any, there: bool) -> Any:
    """What was written to is the tensor that was given."""
    written = [
        kwargs[argument.name] if argument.kwarg_only else args[place]
        for place, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None
        and argument.alias_info.is_write
        and (argument.name in kwargs or place < len(args))
    ]
    if not written:
        return tree_map(_there, made) if there else made
    return tuple(written) if isinstance(made, tuple) else written[0] if made is not None else None


def _on_processor(value: Any) -> Any:
    return _CPU if isinstance(value, torch.device) and value.type == NAME else value


def _there(value: Any) -> Any:
    return There(value) if isinstance(value, torch.Tensor) else value


def _here(value: Any) -> Any:
    return value.here if isinstance(value, There) else value


def _check(func: Any, args: tuple[Any, ...], tensors: list[torch.Tensor]) -> None:
    """Whether a GPU would take these: besides its own only numbers of the processor's, and indices."""
    if func in _INDEXES:
        tensors = [args[0], *args[2:3]] if isinstance(args[0], There) else tensors
    places = {tensor.device for tensor in tensors if tensor.dim() or isinstance(tensor, There)}
    if len(places) > 1 and func not in _COPIES:
        raise RuntimeError(f"{func} of tensors on {' and '.join(map(str, places))}")


_MAKE = torch.tensor


def _tensor(data: Any, *args: Any, device: Any = None, **options: Any) -> torch.Tensor:
    """PyTorch's own goes past what makes the device one."""
    made = _MAKE(data, *args, **options)
    return made if device is None else made.to(device)


@contextmanager
def elsewhere() -> Iterator[Elsewhere]:
    """For the rest of the process PyTorch knows the device's name; within this, it is there."""
    _setup_privateuseone_for_python_backend(NAME, Module())
    with (
        sdpa_kernel(SDPBackend.MATH),
        patch.object(torch, "Generator", Generator),
        patch.object(torch, "tensor", _tensor),
        Elsewhere() as mode,
    ):
        yield mode


def main() -> None:
    """Runs the commands that the command line names.

    Models are not compared with transformers', which leaves the frequencies of rotary positions as memory was
    where PyTorch knows such a device.
    """
    from lathe import cli as commands
    from lathe.compressor.pipeline import calibrate as stage

    with elsewhere() as mode, patch.object(stage, "check_agreement", lambda *_, **__: "not compared"):
        for program, *arguments in _commands(sys.argv[1:]):
            mode.solved.clear()
            sys.argv = [program, *arguments]
            try:
                getattr(commands, program)()
            except SystemExit as end:
                if end.code:
                    raise
            sys.stdout.write(f"solved: {dict(mode.solved)}\n")


def _commands(words: list[str]) -> list[list[str]]:
    """Between dashes."""
    found: list[list[str]] = [[]]
    for word in words:
        if word == "--":
            found.append([])
        else:
            found[-1].append(word)
    return found


if __name__ == "__main__":
    with patch.object(torch.cpu, "get_capabilities", dict):
        main()
