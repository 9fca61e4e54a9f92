"""`lathe.serve`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lathe.serving.launch.api_key import read_api_key
from lathe.serving.launch.registry import serve_with
from lathe.serving.options import ServeOptions
from lathe.signature import with_fields_of


@with_fields_of(ServeOptions)
def serve(**options: Any) -> None:
    """Serves a model over an OpenAI-compatible API, as the command `lathe serve` does.

    It returns when the process gets SIGINT or SIGTERM and the running answers have ended. Call it from the
    main thread. Unlike the command, it reads no option from an environment variable.

    Args:
        **options: the fields of `lathe.serving.options.ServeOptions`, by name. Only `out` is needed, the
            `Path` of an artefact or of a dense checkpoint. `announce` is called with the URL and the model's
            name once the server has generated a token.

    Raises:
        UserError: the options contradict each other, or the model cannot be served with the engine.
    """
    given = ServeOptions(**options)
    key = read_api_key(given.api_key, given.api_key_file)
    serve_with(given.engine, given.out, replace(given, api_key=key))
