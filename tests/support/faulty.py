"""What makes a real process hold, stumble or misjudge the time where a test says so; see `gates.py`.

The processes run the product's own code. Around it stand gates (at the phases of a job, before and after the store
writes a file), a disk that can be made slow, and a machine whose clock and boot can be made others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.gates import Gates

if TYPE_CHECKING:  # nothing of the product is imported before `install` has replaced what it holds on to
    from worker.context import JobContext
    from worker.records import Outcome

GATES, BOOT = "FAULT_GATES", "FAULT_BOOT"


def gates() -> Gates:
    """Those of this process."""
    return Gates(Path(os.environ[GATES]))


def install() -> None:
    """Put everything in its place. Call it before the modules that hold on to what is replaced are imported."""
    here = gates()
    _boot()
    _clock(here)
    _store(here)
    _disk(here)


def _boot() -> None:
    """A boot of the machine that the test names: one more of them is a power cut."""
    boot = os.environ.get(BOOT)
    if boot:
        from worker import identity

        identity.boot_id = lambda: boot  # type: ignore[assignment]


def _clock(here: Gates) -> None:
    """Leases by a clock that the test can step."""
    from worker import service

    opened = service.open_services

    @wraps(opened)
    def open_services(settings: Any = None, *, clock: Callable[[], int] | None = None) -> Any:
        return opened(settings, clock=clock or here.now_ms)

    service.open_services = open_services


def _store(here: Gates) -> None:
    """Gates before and after each file and folder gets its name: `before end.json`, `after models`."""
    from worker.store.local import LocalStore

    def watched(write: Callable[..., Any], label: Callable[..., str]) -> Callable[..., Any]:
        @wraps(write)
        def call(self: LocalStore, *args: Any, **options: Any) -> Any:
            name = label(*args)
            here.stand(f"before {name}")
            found = write(self, *args, **options)
            here.stand(f"after {name}")
            return found

        return call

    def of_file(key: str, *_: Any) -> str:
        return key.rpartition("/")[2]

    def of_folder(source: str, target: str, *_: Any) -> str:
        return target.partition("/")[0]

    LocalStore.put = watched(LocalStore.put, of_file)  # type: ignore[method-assign]
    LocalStore.move = watched(LocalStore.move, of_folder)  # type: ignore[method-assign]


def _disk(here: Gates) -> None:
    fsync = os.fsync

    def slow(descriptor: int) -> None:
        time.sleep(here.fsync_s)
        fsync(descriptor)

    os.fsync = slow  # type: ignore[assignment]


def hold_predictions() -> None:
    """A gate called `predict` before each prediction of this API."""
    from app.inference import Inference

    predict, here = Inference.predict, gates()

    @wraps(predict)
    async def held(self: Inference, *args: Any, **options: Any) -> Any:
        await here.held("predict")
        return await predict(self, *args, **options)

    Inference.predict = held  # type: ignore[method-assign]


def tune(context: JobContext) -> Outcome:
    """The real tuning, with a gate at each phase and one called `saved` after the last; a checkpoint at each step."""
    from npt_core.tuning import meter
    from npt_core.tuning.checkpoint import Checkpointer
    from worker.usecases import tune as real

    meter.MIN_INTERVAL_S = 0.0
    Checkpointer.due = property(lambda self: self.store is not None)  # type: ignore[assignment]
    here, tell = gates(), context.tell
    began: dict[str, int] = {}

    def gated(facts: dict[str, Any]) -> None:
        phase, step = str(facts.get("phase")), int(facts.get("step") or 0)
        tell(facts)
        steps = step - began.setdefault(phase, step)
        here.stand(phase, steps=steps, who=context.spec.name, check=context.control.check)

    context.tell = gated  # type: ignore[method-assign]
    outcome = real.run(context)
    here.stand("saved", who=context.spec.name, check=context.control.check)
    return outcome
