"""The report of a run: one self-contained page. `write_report(run_directory)` makes it."""

from asyncrl.report.page import write_report

__all__ = ["write_report"]
