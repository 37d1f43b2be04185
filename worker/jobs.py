"""Placeholder while the job store is written: the record types are final."""

from __future__ import annotations

from worker.records import JobEnd, JobProgress, JobRecord, JobSpec, JobStatus, Page, Problem, ProblemItem

__all__ = ["JobEnd", "JobProgress", "JobRecord", "JobSpec", "JobStatus", "Page", "Problem", "ProblemItem"]
