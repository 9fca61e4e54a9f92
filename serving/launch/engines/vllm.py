"""`lathe serve --engine vllm`: runs vLLM's own server in a child process and supervises it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from lathe.artefact.errors import UserError
from lathe.artefact.vllm.installed import require_vllm
from lathe.serving.decoding.tokenizer import Tokenizer
from lathe.serving.http.auth import key_digest
from lathe.serving.http.socket import GRACEFUL_SHUTDOWN_S, listen, url_of
from lathe.serving.launch.engine_options import refuse_onnx_only
from lathe.serving.launch.registry import engines
from lathe.serving.launch.slots import check_no_flash_attention
from lathe.serving.metrics.registry import model_info
from lathe.serving.options import ServeOptions
from lathe.serving.playground.pages import Setup
from lathe.serving.playground.upstream import COMPARE_KEY, check_compare
from lathe.serving.served_model import ServedModel, open_served_checkpoint
from lathe.serving.vllm.arguments import arguments, environment
from lathe.serving.vllm.server import PARENT
from lathe.serving.vllm.shared_state import VARIABLE, ServedModelInfo, SharedState

POLL_S = 0.05
STOP_S = 30.0
_ONNX_ONLY = (
    "device",
    "prefix_cache",
    "kv_cache_memory",
    "prompts",
    "request_timeout",
    "write_timeout",
    "switch",
    "slo",
)


@engines.register("vllm")
def serve_vllm(model: Path, options: ServeOptions) -> None:
    """Serves until told to stop.

    Raises:
        UserError: vLLM is missing or of another version, cannot serve this model, or ended by itself.
    """
    check_options(options)
    check_no_flash_attention("vllm", options)
    check_compare(options)
    require_vllm()
    artefact = open_served_checkpoint(model)
    check_model(artefact)
    if options.template_variables:
        Tokenizer(artefact.path, options.template_variables)
    if options.draft is not None:
        check_draft(artefact, open_served_checkpoint(options.draft))
    names = options.served_model_names or (artefact.name,)
    with listen(options.host, options.port) as probe:  # vLLM binds it again by itself
        url, port = url_of(probe), int(probe.getsockname()[1])
    line = arguments(model, names, port, options)
    with tempfile.TemporaryDirectory(prefix="lathe-vllm-") as directory:
        state = SharedState(Path(directory))
        state.publish(_served(artefact, names[0], options))
        VllmProcess(line, state, options).run(url, names[0])


def check_options(options: ServeOptions) -> None:
    """Checks that no option belongs to the onnx engine only.

    Raises:
        UserError: one does.
    """
    refuse_onnx_only("vllm", options, _ONNX_ONLY)


def check_model(artefact: ServedModel) -> None:
    """Checks that vLLM has kernels for a model, which it would find out with the first request.

    Raises:
        UserError: it has none; the message names what it has.
    """
    import torch

    from lathe.artefact.vllm.limits import check_head_size

    if artefact.head_dim is not None:
        check_head_size(artefact.head_dim, torch.cuda.is_available())


def check_draft(artefact: ServedModel, draft: ServedModel) -> None:
    """Checks that the draft model has the same tokens as the served one.

    Raises:
        UserError: it has not.
    """
    check_model(draft)
    if draft.vocab_size != artefact.vocab_size:
        raise UserError(
            f"{draft.path} has a vocabulary of {draft.vocab_size} tokens; {artefact.path} has "
            f"{artefact.vocab_size}",
            "A draft has to be a subnet of the model that it drafts for, or share its tokenizer.",
        )


def _served(artefact: ServedModel, name: str, options: ServeOptions) -> ServedModelInfo:
    values, other = artefact.weights()
    setup = Setup(
        model=name,
        chat=artefact.has_chat_template,
        target_ms=artefact.tpot_target_ms,
        context=options.max_length or artefact.context,
        compare=options.compare is not None,
    )
    return ServedModelInfo(
        model=name,
        target_ms=artefact.target_ms,
        target_metric=artefact.target_metric,
        info=model_info(name, "vllm", artefact),
        values=values,
        other_bytes=other,
        kv_values=artefact.kv_values,
        dense_weights=artefact.dense_weights,
        dense_kv=artefact.dense_kv,
        key=key_digest(options.api_key).hex() if options.api_key else None,
        origins=list(options.allowed_origins),
        setup=asdict(setup) if options.playground else None,
        compare=options.compare,
    )


class VllmProcess:
    """Runs vLLM's process, whose process group ends with it."""

    def __init__(self, line: list[str], state: SharedState, options: ServeOptions) -> None:
        self._state = state
        self._options = options
        self._signals = 0
        read, self._write = os.pipe()
        command = [sys.executable, "-m", "lathe.serving.vllm.server", *line]
        variables = environment(options.threads, options.keep_alive) | {
            VARIABLE: str(state.path),
            PARENT: str(read),
        }
        if options.compare_api_key:
            variables[COMPARE_KEY] = options.compare_api_key
        self._process = subprocess.Popen(
            command,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=2,
            pass_fds=(read,),
            start_new_session=True,
        )
        os.close(read)

    def run(self, url: str, name: str) -> None:
        """Runs until a signal.

        Raises:
            UserError: vLLM ends before.
        """
        before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            while not self._signals and not self._state.ready:
                self._check("before it was ready")
                time.sleep(POLL_S)
            if not self._signals:
                self._options.announce(url, name)
            while not self._signals:
                self._check("while it served")
                time.sleep(POLL_S)
            self._drain()
        finally:
            self._end()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1

    def _check(self, when: str) -> None:
        if failure := self._state.failure:
            raise UserError(failure)
        if (status := self._process.poll()) is not None:
            raise UserError(f"vLLM ended {when}, with status {status}", "What it said is above.")

    def _drain(self) -> None:
        """Refuses new requests, lets running ones finish, and ends the rest.

        A second signal skips the waiting.
        """
        self._state.stop_accepting()
        self._wait_for_answers(self._options.drain_timeout, signals=1)
        if self._state.in_flight:
            self._state.end_answers()
            self._wait_for_answers(GRACEFUL_SHUTDOWN_S, signals=2)

    def _wait_for_answers(self, seconds: float, signals: int) -> None:
        deadline = time.monotonic() + seconds
        while (
            self._state.in_flight
            and self._process.poll() is None
            and self._signals <= signals
            and time.monotonic() < deadline
        ):
            time.sleep(POLL_S)

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._write)
