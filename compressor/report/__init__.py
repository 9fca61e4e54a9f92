"""What a run tells: report.json for scripts, a table for people."""

from lathe.compressor.report.terminal import (
    print_advice,
    print_forecast,
    print_front,
    print_preflight,
    print_report,
)

__all__ = ["print_advice", "print_preflight", "print_forecast", "print_front", "print_report"]
