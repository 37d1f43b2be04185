"""The report of a tuning: as data, and as a self-contained page."""

from npt_core.report.data import Report
from npt_core.report.html import render_report
from npt_core.report.measured import Subject

__all__ = ["Report", "Subject", "render_report"]
