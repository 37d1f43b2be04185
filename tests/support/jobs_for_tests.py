"""Kinds of jobs that only tests run: they sleep, crash, hang or fail on request, on the real machinery."""

from __future__ import annotations

import json
import os
import signal
import time

from npt_core.errors import DatasetError, Fault
from worker.context import JobContext
from worker.records import ModelDraft, Outcome

USE_CASES = {
    "sleep": "tests.support.jobs_for_tests:sleep",
    "crash": "tests.support.jobs_for_tests:crash",
    "hang": "tests.support.jobs_for_tests:hang",
    "deaf": "tests.support.jobs_for_tests:deaf",
    "fail": "tests.support.jobs_for_tests:fail",
    "write": "tests.support.jobs_for_tests:write",
    "measure": "tests.support.jobs_for_tests:measure",
}


def sleep(context: JobContext) -> Outcome:
    """Count to `steps` with a checkpoint at each `checkpoint_every`th, and make a model of the count."""
    config = context.spec.config
    steps, pause = int(config.get("steps", 10)), float(config.get("pause", 0.05))
    every = int(config.get("checkpoint_every", 1))
    saved = context.checkpoints.load()
    done = json.loads(saved)["done"] if saved else 0
    resumed_at = done
    while done < steps:
        context.control.check()
        time.sleep(pause)
        done += 1
        if every and done % every == 0:
            context.checkpoints.save(json.dumps({"done": done}).encode())
        context.tell({"phase": "tuning", "step": done, "total_steps": steps, "loss": 1 / done})
    (context.folder / "manifest.json").write_text(json.dumps({"done": done}))
    (context.folder / "report.json").write_text(json.dumps({"resumed_at": resumed_at}))
    return Outcome(
        model=ModelDraft(name=context.spec.name, backbone="none", method="sleep", dataset_id=context.spec.dataset_id),
        counters={"steps": done - resumed_at},
        result={"resumed_at": resumed_at, "pid": os.getpid()},
    )


def measure(context: JobContext) -> Outcome:
    """Tell the geometry so many times in each of the stages of the config."""
    for stage, times in context.spec.config["stages"].items():
        for epoch in range(times):
            told = {"phase": "tuning", "step": epoch, "total_steps": times, "stage": stage, "epoch": epoch}
            context.tell({**told, "geometry": {"lmc": 0.5}, "picture": {"of": epoch}})
    return Outcome()


def crash(context: JobContext) -> Outcome:
    """Kill the process, as a bad driver or the kernel's memory killer does."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def hang(context: JobContext) -> Outcome:
    """Never make a step, and never look whether to stop."""
    time.sleep(600)
    return Outcome()


def deaf(context: JobContext) -> Outcome:
    """Seem to work, without ever looking whether to stop."""
    until = time.monotonic() + float(context.spec.config.get("seconds", 60))
    while time.monotonic() < until:
        context.control._last_step = time.monotonic()
        time.sleep(0.1)
    return Outcome()


def fail(context: JobContext) -> Outcome:
    """Fail as a user's mistake does, or as a bug does."""
    if context.spec.config.get("how") == "bug":
        raise RuntimeError("secret detail of a bug")
    raise DatasetError("Nothing can be learned from this.", [Fault("a/b.png", "is empty")])


def write(context: JobContext) -> Outcome:
    """Make a file for the user, and one that is nobody's."""
    (context.results / "made.txt").write_text(str(context.fence))
    (context.folder / "scratch.txt").write_text("nobody's")
    if context.spec.config.get("fail"):
        raise DatasetError("It failed after all.")
    return Outcome()
