"""The report of a tuning, as data."""

from npt_core.report.data import Report

__all__ = ["Report"]
