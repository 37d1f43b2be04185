"""Machines that share a data folder: numbers of processes are unique on one of them only."""

from __future__ import annotations

from collections.abc import Callable

from worker.identity import process_name
from worker.ids import new_id
from worker.marks import BusyMark, busy, sweep
from worker.service import Services
from worker.warden import Warden


def test_workers_of_one_number_on_two_machines_are_two(open_floor: Callable[..., Services]) -> None:
    here, there = open_floor(node="here"), open_floor(node="there")
    run_dir, name, job_id = here.settings.run_dir, "7-100", new_id("job")
    BusyMark(run_dir, "there", name, 4_194_999).write(job_id, 1)  # no such process here
    Warden(here, name).watch_once()
    assert [mark.job_id for mark in busy(run_dir, "there", name)] == [job_id]
    sweep(run_dir, "here", name)
    assert busy(run_dir, "there", name)
    Warden(there, name).watch_once()
    assert here.queue.workers() == 2
    assert busy(run_dir, "there", name) == []  # there it was looked for, and is gone


def test_a_worker_that_starts_removes_the_marks_of_the_dead(open_floor: Callable[..., Services]) -> None:
    """Who lost the power removed none, and nobody frees a job twice."""
    services, job_id = open_floor(node="here"), new_id("job")
    run_dir = services.settings.run_dir
    for node, name in (("here", "7-100"), ("here", process_name()), ("there", "7-100")):
        BusyMark(run_dir, node, name, 4_194_999).write(job_id, 1)
    warden = Warden(services, "1-1")
    warden.start()
    try:
        assert busy(run_dir, "here", "7-100") == []
        assert busy(run_dir, "here", process_name())  # it lives
        assert busy(run_dir, "there", "7-100")  # another machine's
    finally:
        warden.stop()
