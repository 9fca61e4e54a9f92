"""The command line is a contract: names of commands and options change on purpose only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer

from lathe.cli import build
from support.compress_command import lathe

SURFACE = {
    "compress": {
        "model",
        "--config",
        "--output",
        "-o",
        "--target-latency",
        "--target-speedup",
        "--target-memory",
        "--keep",
        "--latency-metric",
        "--batch-size",
        "--context",
        "--output-tokens",
        "--backend",
        "--threads",
        "--calibration",
        "--calibration-tokens",
        "--domain",
        "--vocabulary",
        "--evaluation",
        "--method",
        "--evaluations",
        "--tolerance",
        "--seed",
        "--force",
        "--no-force",
        "--overwrite",
        "--no-overwrite",
        "--measure-seconds",
        "--remeasure",
        "--no-remeasure",
        "--memory-limit",
        "--ray",
        "--worker-threads",
        "--device",
        "--dry-run",
        "--json",
        "--debug",
        "--no-debug",
        "--export",
        "--profile",
        "--plan",
        "--front",
        "--target-throughput",
        "--max-perplexity-increase",
        "--for",
        "--tensor-parallel",
        "--quantize",
        "--bits",
        "--group-size",
        "--kv-cache",
        "--damping",
        "--ffn-levels",
        "--refinements",
        "--pattern",
        "--pattern-method",
    },
    "export": {
        "--calibration",
        "--calibration-tokens",
        "model",
        "--config",
        "--output",
        "-o",
        "--to",
        "--tensor-parallel",
        "--quantize",
        "--plan",
        "--group-size",
        "--kv-cache",
        "--json",
        "--debug",
        "--no-debug",
    },
    "evaluate": {
        "models",
        "--config",
        "--text",
        "--window",
        "--windows",
        "--against",
        "--tasks",
        "--task-dir",
        "--served",
        "--device",
        "--json",
        "--debug",
        "--no-debug",
    },
    "plan": {
        "--bits",
        "model",
        "--config",
        "--target-latency",
        "--target-speedup",
        "--target-memory",
        "--keep",
        "--latency-metric",
        "--batch-size",
        "--context",
        "--output-tokens",
        "--backend",
        "--threads",
        "--profile",
        "--latency",
        "--no-latency",
        "--calibration",
        "--calibration-tokens",
        "--vocabulary",
        "--seed",
        "--json",
        "--debug",
        "--no-debug",
        "--for",
        "--tensor-parallel",
    },
    "tune": {
        "--backend",
        "--batch-size",
        "--bits",
        "--calibration",
        "--calibration-tokens",
        "--config",
        "--confirm",
        "--context",
        "--damping",
        "--debug",
        "--device",
        "--dry-run",
        "--evaluation",
        "--evaluations",
        "--export",
        "--ffn-levels",
        "--for",
        "--group-size",
        "--halving",
        "--json",
        "--keep",
        "--kv-cache",
        "--latency-metric",
        "--measure-seconds",
        "--memory-limit",
        "--method",
        "--no-debug",
        "--no-halving",
        "--output",
        "--output-tokens",
        "--profile",
        "--quantize",
        "--refinements",
        "--sampler",
        "--save",
        "--seed",
        "--space",
        "--target-latency",
        "--target-memory",
        "--target-speedup",
        "--tensor-parallel",
        "--threads",
        "--time-budget",
        "--tolerance",
        "--trials",
        "--tune",
        "--vocabulary",
        "-o",
        "model",
    },
    "profile": {
        "model",
        "--config",
        "--output",
        "-o",
        "--backend",
        "--latency-metric",
        "--batch-size",
        "--context",
        "--output-tokens",
        "--threads",
        "--hardware",
        "--measure-seconds",
        "--dtype",
        "--overwrite",
        "--no-overwrite",
        "--json",
        "--debug",
        "--no-debug",
    },
    "inspect": {"artefact", "--html", "--json", "--debug", "--no-debug"},
    "refresh": {"artefact", "--overwrite", "--no-overwrite", "--dry-run", "--json", "--debug", "--no-debug"},
    "families": {"--json", "--debug", "--no-debug"},
    "serve": {
        "out",
        "--config",
        "--host",
        "--port",
        "--engine",
        "--device",
        "--threads",
        "--max-batch",
        "--max-length",
        "--max-queue",
        "--flash-attention",
        "--kv-cache-memory",
        "--no-flash-attention",
        "--prefix-cache",
        "--prompts",
        "--served-model-name",
        "--slo",
        "--switch",
        "--api-key",
        "--api-key-file",
        "--allowed-origins",
        "--drain-timeout",
        "--request-timeout",
        "--write-timeout",
        "--keep-alive",
        "--metrics-alias",
        "--playground",
        "--no-playground",
        "--compare",
        "--compare-api-key",
        "--draft",
        "--draft-tokens",
        "engine_args",
        "--json",
        "--debug",
        "--no-debug",
        "--generation-config",
        "--default-chat-template-kwargs",
    },
    "loadtest": {
        "target",
        "--config",
        "--against",
        "--rate",
        "--arrival",
        "--concurrency",
        "--requests",
        "--duration",
        "--warmup",
        "--rounds",
        "--seed",
        "--timeout",
        "--endpoint",
        "--model",
        "--api-key",
        "--prompts",
        "--prompt-tokens",
        "--output-tokens",
        "--serve-options",
        "--output",
        "-o",
        "--json",
        "--debug",
        "--no-debug",
        "--slo",
        "--slo-share",
        "--ramp-to",
        "--trace",
        "--html",
        "--engine",
        "--guidellm",
        "--extra-body",
    },
}


def commands() -> dict[str, click.Command]:
    group = typer.main.get_command(build())
    return dict(group.commands)  # type: ignore[attr-defined]


def options(command: click.Command) -> set[str]:
    names = [name for p in command.params for name in (*p.opts, *p.secondary_opts)]
    return set(names) - {"--help"}


def test_commands_and_options_are_frozen() -> None:
    assert {name: options(command) for name, command in commands().items()} == SURFACE


@pytest.mark.parametrize("name", SURFACE)
def test_help_tells_what_each_option_does(name: str) -> None:
    shown = lathe(name, "--help")
    assert shown.exit_code == 0
    assert "Usage:" in shown.stdout
    for parameter in commands()[name].params:
        assert parameter.name == "help" or getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_lathe_alone_lists_its_commands() -> None:
    shown = lathe()
    assert all(name in shown.output for name in SURFACE)


def test_the_report_imports_alone() -> None:
    """`lathe inspect` begins with it, in a process that has nothing else."""
    command = [sys.executable, "-c", "import lathe.compressor.report.terminal"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_both_console_commands_are_installed(tmp_path: Path) -> None:
    for program, *arguments in (["lathe", "compress"], ["compress"]):
        command = [str(Path(sys.executable).parent / program), *arguments, "--help"]
        shown = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
        assert shown.returncode == 0
        assert "--target-latency" in shown.stdout
        assert not shown.stderr
