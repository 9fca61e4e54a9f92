"""The options of `lathe serve`: each is declared once, with its default and its help."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from lathe.artefact.byte_size import parse_bytes
from lathe.artefact.command_options import Argument, Option
from lathe.serving.decoding.chat_template import Scalar, read_variables

SLOTS = 8
"""Sequences that our own scheduler computes together."""
MAX_BATCH_OF_VLLM = 256
REQUEST_TIMEOUT_S = 600.0
WRITE_TIMEOUT_S = 30.0
KEEP_ALIVE_S = 75
"""Longer than proxies and pooling clients keep a connection by default (60 s), so that they close first."""

VLLM = "With --engine vllm"


def _silent(_url: str, _model: str) -> None:
    """Announces nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """The options of `lathe serve`; None stands for the engine's own choice, and timeouts are in seconds.

    A field has its option's name, with underscores, but for two: `served_model_names` is --served-model-name,
    and `template_variables` --default-chat-template-kwargs.
    """

    out: Annotated[
        Path, Argument(help="Output directory of `lathe compress`, a dense checkpoint, or a GGUF file.")
    ]
    engine_args: Annotated[
        tuple[str, ...],
        Argument(
            metavar="[-- VLLM_ARGS]",
            help="After `--`: arguments of `vllm serve`, such as --tensor-parallel-size 2.",
        ),
    ] = ()
    host: Annotated[str, Option(help="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Option(help="0 picks a free port.", least=0, most=65535)] = 8000
    engine: Annotated[
        str,
        Option(
            help="The inference engine: onnx (the ONNX export), llamacpp (the GGUF export, or any GGUF file "
            "as it is), vllm (the checkpoint), or auto: of onnx and llamacpp the one that is measured to be "
            "faster here, with the files that are there."
        ),
    ] = "onnx"
    device: Annotated[
        Literal["cpu", "cuda"] | None,
        Option(help="Where the onnx engine computes; vllm uses what it is built for.", unset="cpu"),
    ] = None
    threads: Annotated[int | None, Option(help="CPU threads of the engine.", least=1)] = None
    max_batch: Annotated[
        int | None,
        Option(
            help="Sequences computed together.",
            unset=f"{SLOTS} with onnx and llamacpp, {MAX_BATCH_OF_VLLM} with vllm",
            least=1,
            most=1024,
        ),
    ] = None
    max_length: Annotated[
        int | None, Option(help="Longest sequence in tokens.", unset="the model's own", least=2)
    ] = None
    max_queue: Annotated[
        int, Option(help="Sequences that may wait; more are answered with 429.", least=0)
    ] = 64
    prefix_cache: Annotated[
        int | None,
        Option(
            help="Prompt tokens to keep for later prompts that begin alike, in chunks of 128. Off unless "
            "given, because clients could tell what others asked. With --engine onnx.",
            least=128,
        ),
    ] = None
    kv_cache_memory: Annotated[
        int | None,
        Option(
            help="The most memory for keys and values, such as 4GiB. A sequence waits until there is enough "
            "for its prompt and max_tokens. With --engine onnx.",
            unset="what all sequences take at full length, or what is free at the start",
            parser=parse_bytes,
            unit="B",
            metavar="SIZE",
        ),
    ] = None
    prompts: Annotated[
        Literal["auto", "onnxruntime", "openvino", "openvino-bf16"] | None,
        Option(
            help="What reads prompts, with --engine onnx: openvino computes in float32 and openvino-bf16 in "
            "bfloat16, either with a second copy of the weights (extra `openvino`). auto takes what is "
            "measured to be faster here, and bfloat16 for rounded weights alone.",
            unset="onnxruntime; auto with --engine auto",
        ),
    ] = None
    switch: Annotated[
        str | None,
        Option(
            help="Which subnet of a family answers requests that name none: widest; slo: a faster one for "
            "new requests while a limit of --slo is about to break; domain: that of the prompt's domain, by "
            "the router of `compress --domain`. With --engine onnx.",
            unset="domain where the family has a router, else widest",
        ),
    ] = None
    slo: Annotated[
        str | None,
        Option(
            metavar="LIMITS",
            help="Limits for --switch slo, per output token and for the first one: tpot=30ms,ttft=200ms, or "
            "one of them.",
        ),
    ] = None
    flash_attention: Annotated[
        bool,
        Option(
            help="Flash attention, with --engine llamacpp: reads long prompts faster, and rounds more and "
            "decodes slower."
        ),
    ] = False
    served_model_names: Annotated[
        tuple[str, ...],
        Option(
            flags=("--served-model-name",),
            help="A name that clients ask for; may be repeated, and the first is reported.",
            unset="the directory's",
        ),
    ] = ()
    api_key: Annotated[str | None, Option(help="The key that clients must send.", envvar="LATHE_API_KEY")] = (
        None
    )
    api_key_file: Annotated[
        Path | None,
        Option(help="A file that holds the key, such as a mounted secret.", envvar="LATHE_API_KEY_FILE"),
    ] = None
    allowed_origins: Annotated[
        tuple[str, ...],
        Option(help="An origin of web pages that may call from a browser; may be repeated; * is any."),
    ] = ()
    drain_timeout: Annotated[
        float, Option(help="Seconds that running answers get to finish on SIGTERM.", least=0)
    ] = 30.0
    request_timeout: Annotated[
        float | None,
        Option(
            help="Seconds that an answer may take, with --engine onnx or llamacpp.",
            unset=f"{REQUEST_TIMEOUT_S:g}",
            least=0.001,
        ),
    ] = None
    write_timeout: Annotated[
        float | None,
        Option(
            help="Seconds for which a client may not read, with --engine onnx or llamacpp.",
            unset=f"{WRITE_TIMEOUT_S:g}",
            least=0.001,
        ),
    ] = None
    keep_alive: Annotated[
        int | None,
        Option(
            help="Seconds for which a connection may wait for its next request.",
            unset=f"{KEEP_ALIVE_S}",
            least=1,
        ),
    ] = None
    metrics_alias: Annotated[
        Literal["vllm"] | None,
        Option(help="Also report the common metrics under vLLM's names (--engine vllm always does)."),
    ] = None
    playground: Annotated[bool, Option(help="A page at / to chat with the model and watch its metrics.")] = (
        True
    )
    compare: Annotated[
        str | None,
        Option(metavar="URL", help="Another server, such as the dense model's: the playground asks both."),
    ] = None
    compare_api_key: Annotated[
        str | None, Option(help="The key that the other server asks for.", envvar="LATHE_COMPARE_API_KEY")
    ] = None
    draft: Annotated[
        Path | None,
        Option(
            help="A subnet of OUT that drafts tokens. OUT verifies them and answers as it would alone.",
            panel=VLLM,
        ),
    ] = None
    draft_tokens: Annotated[int, Option(help="Tokens drafted at a time.", least=1, most=64, panel=VLLM)] = 3
    generation_config: Annotated[
        Literal["auto", "none"],
        Option(
            help="Sampling parameters for what a request leaves out: auto takes those that the model's "
            "generation_config.json recommends, none takes OpenAI's defaults."
        ),
    ] = "auto"
    template_variables: Annotated[
        Mapping[str, Scalar],
        Option(
            flags=("--default-chat-template-kwargs",),
            help="Variables of the chat template, unless a request sets them, such as "
            "'{\"enable_thinking\": false}'.",
            metavar="JSON",
            parser=read_variables,
        ),
    ] = field(default_factory=dict)
    announce: Callable[[str, str], None] = _silent
    """Called with (URL, model) once a token has been generated."""
