"""What `lathe serve` was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lathe.serving.decoding.chat_template import Scalar


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What `lathe serve` was asked for; None stands for the engine's own choice; timeouts are in seconds.

    `playground`: whether there is a page at `/`; `compare`: another server's address, for that page.
    `draft`: a smaller model whose guesses the served one checks, `draft_tokens` at a time. `engine_args`:
    arguments for an engine that has a command line of its own. `generation_config`: whether the sampling
    that the model recommends is the default (auto) or not (none); `template_variables`: what the chat
    template is given unless a request says otherwise.
    """

    host: str
    port: int
    device: str | None
    threads: int | None
    max_batch: int | None
    max_length: int | None
    max_queue: int
    prefix_cache: int | None
    served_model_names: tuple[str, ...]
    """What clients may ask for; the first is reported. None given: the directory's name."""
    api_key: str | None
    allowed_origins: tuple[str, ...]
    drain_timeout: float
    request_timeout: float | None
    write_timeout: float | None
    metrics_alias: str | None
    playground: bool
    compare: str | None
    compare_api_key: str | None
    draft: Path | None
    draft_tokens: int
    engine_args: tuple[str, ...]
    generation_config: Literal["auto", "none"]
    template_variables: Mapping[str, Scalar]
    announce: Callable[[str, str], None]
    """Called with (URL, model) once a token has been generated."""
    keep_alive: int | None = None
    """Seconds for which a connection may wait for its next request."""
