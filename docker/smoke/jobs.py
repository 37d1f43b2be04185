"""What several steps do with a deployment: follow a job, start a long one, ask a model again."""

from __future__ import annotations

import time

from outcome import expect
from stage import Stage

FEW = 20
STEPS_AN_EPOCH = 4
"""128 of the 160 digits are tuned on, 32 at a time."""


def followed(s: Stage, job: str, from_its_start: bool = False) -> int:
    """The events of a job, to its end; how many. Followed from its start, it tells how long to make long jobs."""
    seen, at = [], {}
    for event, data in s.client.events(job):
        seen.append(event)
        if event == "progress" and data.get("stage") == "held-out" and data.get("step"):
            at[data["step"]] = time.monotonic()
    if from_its_start and len(at) > 1 and (took := at[max(at)] - at[min(at)]) > 0:
        s.steps_per_s = (max(at) - min(at)) / took
    expect(seen[-1:] == ["end"] and "progress" in seen, f"the events were {seen[:3]} ... {seen[-3:]}")
    return len(seen)


def long_job(s: Stage, seconds: float) -> str:
    """A tuning that takes about so long on this machine, as it went before: long enough to be disturbed."""
    epochs = max(20, min(10_000, int(s.steps_per_s * seconds / STEPS_AN_EPOCH)))
    return s.client.tune(s.digits, "long", method="coop", epochs=epochs, refit=False)


def same(s: Stage) -> None:
    """The model answers what it answered first."""
    again = s.classify(s.client, FEW, model=s.model)
    first = s.answers[:FEW]
    expect([one["label"] for one in again] == [one["label"] for one in first], "labels have changed")
    off = max(abs(a["probability"] - b["probability"]) for a, b in zip(again, first, strict=True))
    expect(off < 1e-5, f"probabilities have changed by {off:.1e}")
