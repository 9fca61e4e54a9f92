"""What a run tells: report.json for scripts, a table for people."""

from compressor.report.document import build_report
from compressor.report.terminal import print_card, print_front, print_report

__all__ = ["build_report", "print_card", "print_front", "print_report"]
