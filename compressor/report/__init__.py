"""What a run tells: report.json for scripts, a table for people."""

from compressor.report.document import build_report
from compressor.report.terminal import (
    print_advice,
    print_card,
    print_forecast,
    print_front,
    print_report,
)

__all__ = ["build_report", "print_advice", "print_card", "print_forecast", "print_front", "print_report"]
