"""How much memory the keys and values of a server may take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lathe.artefact.errors import UserError
from lathe.artefact.free_memory import free_bytes
from lathe.serving.options import ServeOptions

KEPT_FREE = 0.1
"""Of the memory that is free at the start; the rest of the server grows, too."""


class Engine(Protocol):
    """What a `SlotEngine` tells of its memory.

    Attributes:
        takes_pages: whether a slot takes memory as its tokens come, not at the start.
    """

    takes_pages: bool
    max_length: int
    kv_cache_bytes: int
    kv_bytes_per_token: int

    def kv_bytes(self, tokens: int) -> int:
        """Returns the memory of a slot of so many tokens."""


def kv_memory(engines: Sequence[Engine], options: ServeOptions) -> int:
    """Returns the most bytes for the tokens of the sequences of all engines, beside cached prefixes.

    Raises:
        UserError: one sequence at full length does not fit, more was asked for than is free, or the engine
            has taken its memory already.
    """
    asked, full = options.kv_cache_memory, sum(engine.kv_cache_bytes for engine in engines)
    if not all(engine.takes_pages for engine in engines):
        if asked is not None:
            raise UserError(
                "this engine takes the whole KV cache at the start, and no --kv-cache-memory",
                "Lower --max-batch or --max-length.",
            )
        return full
    kept = (options.prefix_cache or 0) * sum(engine.kv_bytes_per_token for engine in engines)
    room = free_bytes() - kept
    if asked is not None and min(asked, full) > room:
        raise UserError(
            f"--kv-cache-memory {_gib(asked)} and the prefix cache do not fit into the {_gib(free_bytes())} "
            "of memory that are free",
            "Lower it or --prefix-cache.",
        )
    total = min(full, int(room * (1 - KEPT_FREE)) if asked is None else asked)
    widest = max(engines, key=lambda engine: engine.kv_bytes_per_token)
    if total < (one := widest.kv_bytes(widest.max_length)):
        most = max(0, total) // widest.kv_bytes_per_token
        more = "" if asked is None else ", or raise --kv-cache-memory"
        raise UserError(
            f"a KV cache of {_gib(max(0, total))} does not hold one sequence of {widest.max_length} tokens, "
            f"which takes {_gib(one)}",
            f"Lower --max-length to at most {most}{more}.",
        )
    return total


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
