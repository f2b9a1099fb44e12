"""The report of a study: one HTML file that needs nothing else."""

from inferloom.search.reporting.report import render_report, write_report

__all__ = ["render_report", "write_report"]
