"""A backbone for a job, loaded while the job goes on listening."""

from __future__ import annotations

from concurrent.futures import Future, wait
from contextvars import copy_context
from threading import Thread
from typing import TYPE_CHECKING

from worker.context import JobContext

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone

LISTEN_S = 0.2


def load_backbone(context: JobContext, name: str | None, precision: str = "auto") -> Backbone:
    """The backbone of that name, or the server's first; see `worker.backbones.load`.

    Weights may be on their way over a slow line: be cancelled and drained meanwhile. A load that is left goes on.
    """
    from worker import backbones

    done: Future[Backbone] = Future()

    def run_it() -> None:
        try:
            done.set_result(backbones.load(context.services.settings, name, precision))
        except BaseException as error:
            done.set_exception(error)

    Thread(target=copy_context().run, args=(run_it,), name="load backbone", daemon=True).start()
    while True:
        context.control.check()
        wait([done], timeout=LISTEN_S)
        if done.done():
            backbones.keep_to_threads(
                context.services.settings
            )  # what computes is this thread, not the one that loaded
            return done.result()
