"""`lathe serve`."""

from __future__ import annotations

import os
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal, NoReturn

import typer

VLLM = "With --engine vllm"


def serve(
    out: Annotated[Path, typer.Argument(help="Output directory of `lathe compress`, or a dense checkpoint.")],
    engine_args: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- VLLM_ARGS]",
            help="After `--`: arguments of `vllm serve`, such as --tensor-parallel-size 2.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free port.")] = 8000,
    engine: Annotated[
        str, typer.Option(help="What computes: onnx (the ONNX export) or vllm (the checkpoint).")
    ] = "onnx",
    device: Annotated[
        Literal["cpu", "cuda"] | None,
        typer.Option(
            help="What the onnx engine computes on, cpu by default; vllm uses what it is built for."
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of the engine.")] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Sequences computed together; 8 with onnx, 256 with vllm."),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=2, help="Longest sequence in tokens; the model's own by default.")
    ] = None,
    max_queue: Annotated[
        int, typer.Option(min=0, help="Sequences that may wait; more are answered with 429.")
    ] = 64,
    prefix_cache: Annotated[
        int | None,
        typer.Option(
            min=128,
            help="Prompt tokens to keep for later prompts that begin alike, in chunks of 128; none by "
            "default, as clients could tell what others asked. With --engine onnx.",
        ),
    ] = None,
    served_model_name: Annotated[
        list[str] | None,
        typer.Option(help="Name that clients ask for, again for more; the directory's by default."),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="LATHE_API_KEY", help="Key that clients must send.")
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(envvar="LATHE_API_KEY_FILE", help="File that holds it, such as a mounted secret."),
    ] = None,
    allowed_origins: Annotated[
        list[str] | None,
        typer.Option(help="Origin of web pages that may call from a browser, again for more; * is any."),
    ] = None,
    drain_timeout: Annotated[
        float, typer.Option(min=0, help="Seconds that running answers get to finish on SIGTERM.")
    ] = 30.0,
    request_timeout: Annotated[
        float | None,
        typer.Option(min=0.001, help="Seconds that an answer may take, 600 by default; with --engine onnx."),
    ] = None,
    write_timeout: Annotated[
        float | None,
        typer.Option(min=0.001, help="Seconds for which a client may not read, 30 by default; likewise."),
    ] = None,
    keep_alive: Annotated[
        int | None,
        typer.Option(
            min=1, help="Seconds for which a connection may wait for its next request, 75 by default."
        ),
    ] = None,
    metrics_alias: Annotated[
        Literal["vllm"] | None,
        typer.Option(help="Report the common metrics under vLLM's names, too (with --engine vllm they are)."),
    ] = None,
    playground: Annotated[
        bool, typer.Option(help="A page at / to chat with the model and watch its metrics.")
    ] = True,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Another server, such as the dense model's: the playground asks both."
        ),
    ] = None,
    compare_api_key: Annotated[
        str | None, typer.Option(envvar="LATHE_COMPARE_API_KEY", help="Key that the other server asks for.")
    ] = None,
    draft: Annotated[
        Path | None,
        typer.Option(
            help="A subnet of OUT that drafts: OUT checks its tokens, and answers as it would alone.",
            rich_help_panel=VLLM,
        ),
    ] = None,
    draft_tokens: Annotated[
        int, typer.Option(min=1, max=64, help="Tokens drafted at a time.", rich_help_panel=VLLM)
    ] = 3,
    generation_config: Annotated[
        Literal["auto", "none"],
        typer.Option(
            help="Sampling for what a request leaves out: auto is what the model's generation_config.json "
            "recommends, none is OpenAI's."
        ),
    ] = "auto",
    default_chat_template_kwargs: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="Variables of the chat template, unless a request sets them, such as "
            "'{\"enable_thinking\": false}'.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line when ready.")] = False,
) -> None:
    """Serve a model over an OpenAI-compatible API with Prometheus metrics.

    \b
    lathe serve out
    lathe serve out --compare http://127.0.0.1:8001
    lathe serve out --engine vllm -- --tensor-parallel-size 2
    lathe serve ./my-llama --engine vllm --draft out
    """
    import json
    import logging
    import signal

    from lathe.serving.decoding.chat_template import read_variables
    from lathe.serving.launch.registry import serve_with
    from lathe.serving.options import ServeOptions

    # The first process of a container ignores SIGTERM until somebody handles it, and loading takes a while.
    signal.signal(signal.SIGTERM, _leave)

    def announce(url: str, model: str) -> None:
        event = {"event": "ready", "url": url, "model": model}
        page = f", playground at {url}/" if playground else ""
        typer.echo(json.dumps(event) if as_json else f"ready: {model} at {url}/v1{page}")

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    options = ServeOptions(
        host=host,
        port=port,
        device=device,
        threads=threads,
        max_batch=max_batch,
        max_length=max_length,
        max_queue=max_queue,
        prefix_cache=prefix_cache,
        served_model_names=tuple(served_model_name or ()),
        api_key=_key(api_key, api_key_file),
        allowed_origins=tuple(allowed_origins or ()),
        drain_timeout=drain_timeout,
        request_timeout=request_timeout,
        write_timeout=write_timeout,
        keep_alive=keep_alive,
        metrics_alias=metrics_alias,
        playground=playground,
        compare=compare,
        compare_api_key=compare_api_key,
        draft=draft,
        draft_tokens=draft_tokens,
        engine_args=tuple(engine_args or ()),
        generation_config=generation_config,
        template_variables=read_variables(default_chat_template_kwargs),
        announce=announce,
    )
    serve_with(engine, out, options)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _key(key: str | None, file: Path | None) -> str | None:
    """Raises UserError: both are given, or one of them is empty: no server is open by mistake."""
    from lathe.artefact.errors import UserError

    if file is None:
        given = os.environ.get("LATHE_API_KEY") if key is None else key
        if given is not None and not given.strip():
            raise UserError("the API key is empty", "Give one, or neither --api-key nor $LATHE_API_KEY.")
        if os.environ.get("LATHE_API_KEY_FILE") == "":
            raise UserError("$LATHE_API_KEY_FILE names no file", "Name one, or do not set it.")
        return key
    if key is not None:
        raise UserError("both an API key and a file with one are given", "Give one of them.")
    try:
        found = file.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the API key in {file}: {error}") from None
    if not found:
        raise UserError(f"{file} holds no API key", "Put the key on its first line.")
    return found
