"""The process that is vLLM's server: `python -m lathe.serving.vllm.server`, started by `lathe serve`.

It takes vLLM's arguments. What the exporter would have refused is refused here, before a weight is read.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from argparse import Namespace
from pathlib import Path

from lathe.artefact.errors import UserError
from lathe.serving.vllm.arguments import check_middleware
from lathe.serving.vllm.shared_state import SharedState

PARENT = "LATHE_VLLM_PARENT"
"""The read end of a pipe whose other end closes when `lathe serve` ends, however it ends."""


def main(arguments: list[str]) -> None:
    """Serves until SIGTERM, or until the parent process has ended."""
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from lathe.serving.vllm.compat import cli_env_setup, make_arg_parser, validate_parsed_serve_args

    state = SharedState.here()
    if state is None:
        raise SystemExit("this process is started by `lathe serve --engine vllm`")
    threading.Thread(target=_follow_the_parent, daemon=True).start()
    cli_env_setup()
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(arguments)
    try:
        validate_parsed_serve_args(args)
        check_middleware(args, os.environ)
        check_parallel(args)
    except (UserError, ValueError, TypeError) as error:
        state.fail(str(error))
        raise SystemExit(1) from None
    state.expect(args.api_server_count or args.data_parallel_size)
    ServeSubcommand.cmd(args)


def check_parallel(args: Namespace) -> None:
    """Checks that the devices can share every layer; vLLM reports that with a bare AssertionError.

    Raises:
        UserError: they cannot; the message names the numbers that can.
    """
    from lathe.artefact.plan import Plan
    from lathe.artefact.vllm.limits import check_parallel as check

    plan = Path(args.model) / "plan.json"
    if args.tensor_parallel_size > 1 and plan.exists():
        check(Plan.load(plan), args.tensor_parallel_size)


def _follow_the_parent() -> None:
    pipe = os.environ.get(PARENT)
    if pipe is not None:
        os.read(int(pipe), 1)
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(sys.argv[1:])
