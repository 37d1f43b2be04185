"""Micro-batching: many callers, one thread that owns the model.

    raw --> thread pool: prepare (decode, resize) --> ready queue --> one thread: run (a batch) --> future

The model thread takes whatever is ready, up to `max_batch`, as soon as it is free. When nothing else waits, a single
item runs alone at once; under load, what arrives during a run forms the next batch. No timer is involved. What is
admitted and not yet answered is bounded, so memory is bounded: beyond it `OverloadedError` says when to come again.

It knows neither HTTP nor torch: `prepare` and `run` are plain functions.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from npt_core.errors import ConfigError, OverloadedError

Raw = TypeVar("Raw")
Item = TypeVar("Item")
Out = TypeVar("Out")
Result = TypeVar("Result")

MIN_RETRY_S, MAX_RETRY_S = 1.0, 30.0
_SMOOTHING = 0.2  # weight of the newest batch in the running seconds per item


@dataclass(frozen=True)
class _Ready(Generic[Item, Out]):
    item: Item
    future: Future[Out]


@dataclass(frozen=True)
class _Call:
    function: Callable[[], Any]
    future: Future[Any]


class MicroBatcher(Generic[Raw, Item, Out]):
    """Prepare items in a pool of threads and run them in batches on one thread.

    Args:
        prepare: Turns one raw item into what `run` takes. Called on several threads at once; what it raises reaches
            the caller of that item alone.
        run: Turns a batch of 1..max_batch prepared items into as many results, in order. Only ever called on the one
            model thread. A batch that fails is run again in halves, so that one item cannot fail the others.
        max_batch: Largest batch.
        max_pending: Largest number of items admitted and not yet answered.
        prepare_threads: Threads of the pool.
        name: Used in thread names and messages.
        on_batch: Called after each batch with (items, seconds), on the model thread.

    Raises:
        ConfigError: A size that cannot work.
    """

    def __init__(
        self,
        prepare: Callable[[Raw], Item],
        run: Callable[[Sequence[Item]], Sequence[Out]],
        *,
        max_batch: int = 32,
        max_pending: int = 256,
        prepare_threads: int = 2,
        name: str = "batcher",
        on_batch: Callable[[int, float], None] | None = None,
    ) -> None:
        sizes = (("max_batch", max_batch), ("max_pending", max_pending), ("prepare_threads", prepare_threads))
        for field, value in sizes:
            if value < 1:
                raise ConfigError(f"{field} of batcher {name!r} is {value}; it must be at least 1.")
        self._prepare, self._run, self._on_batch = prepare, run, on_batch
        self.max_batch, self.max_pending, self.name = max_batch, max_pending, name
        self._condition = threading.Condition()
        self._ready: deque[_Ready[Item, Out]] = deque()
        self._calls: deque[_Call] = deque()
        self._pending = 0
        self._closing = False
        self._seconds_per_item = 0.0
        self._pool = ThreadPoolExecutor(prepare_threads, thread_name_prefix=f"{name}-prepare")
        self._thread = threading.Thread(target=self._loop, name=f"{name}-model", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Items and calls admitted and not yet answered."""
        return self._pending

    @property
    def closed(self) -> bool:
        """True once `close` was called."""
        return self._closing

    def submit(self, raw: Raw) -> Future[Out]:
        """Admit one item. Cancelling the future before its batch starts leaves it out.

        Raises:
            OverloadedError: `max_pending` items wait already, or the batcher is closing.
        """
        return self.submit_many([raw])[0]

    def submit_many(self, raws: Sequence[Raw]) -> list[Future[Out]]:
        """Admit all of `raws` or none; results are in their order.

        Raises:
            OverloadedError: They do not fit beside what waits already, or the batcher is closing.
        """
        futures: list[Future[Out]] = [Future() for _ in raws]
        self._admit(futures)
        for raw, future in zip(raws, futures, strict=True):
            self._pool.submit(self._prepare_one, raw, future)
        return futures

    def call(self, function: Callable[[], Result]) -> Future[Result]:
        """Run `function` on the model thread, between two batches.

        Raises:
            OverloadedError: As for `submit`.
        """
        future: Future[Result] = Future()
        self._admit([future])
        with self._condition:
            self._calls.append(_Call(function, future))
            self._condition.notify_all()
        return future

    def close(self, timeout_s: float = 10.0) -> bool:
        """Admit nothing more, answer what was admitted, cancel what is left after `timeout_s`.

        Returns:
            True when everything was answered in time.
        """
        deadline = time.monotonic() + timeout_s
        with self._condition:
            self._closing = True
            self._condition.notify_all()
            drained = self._condition.wait_for(lambda: self._pending == 0, timeout_s)
            left: list[Future[Any]] = [entry.future for entry in self._ready] + [call.future for call in self._calls]
            self._ready.clear()
            self._calls.clear()
            self._condition.notify_all()
        for future in left:
            future.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return drained

    # --- admission ----------------------------------------------------------------------------------------------------

    def _admit(self, futures: Sequence[Future[Any]]) -> None:
        if len(futures) > self.max_pending:
            raise ConfigError(
                f"{len(futures)} items at once for {self.name!r}; at most {self.max_pending} can ever be admitted."
            )
        with self._condition:
            if self._closing:
                raise OverloadedError(f"{self.name!r} is shutting down; send the request again shortly.", MIN_RETRY_S)
            if self._pending + len(futures) > self.max_pending:
                wait = min(MAX_RETRY_S, max(MIN_RETRY_S, math.ceil(self._pending * self._seconds_per_item)))
                raise OverloadedError(
                    f"{self._pending} images are waiting for {self.name!r} and at most {self.max_pending} may; "
                    f"try again in {wait:.0f} s.",
                    wait,
                )
            self._pending += len(futures)
        for future in futures:
            future.add_done_callback(self._answered)

    def _answered(self, _: Future[Any]) -> None:
        with self._condition:
            self._pending -= 1
            if self._pending == 0:
                self._condition.notify_all()

    # --- the pool -----------------------------------------------------------------------------------------------------

    def _prepare_one(self, raw: Raw, future: Future[Out]) -> None:
        if future.cancelled():
            return
        try:
            item = self._prepare(raw)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to this item's caller
            _fail(future, error)
            return
        with self._condition:
            self._ready.append(_Ready(item, future))
            self._condition.notify_all()  # one wake-up could go to `close`, which waits on the same condition

    # --- the model thread ---------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._ready or self._calls or (self._closing and self._pending == 0))
                if not self._ready and not self._calls:
                    return
                call = self._calls.popleft() if self._calls else None
                taken = [self._ready.popleft() for _ in range(min(self.max_batch, len(self._ready)))]
            batch = [entry for entry in taken if entry.future.set_running_or_notify_cancel()]
            if batch:
                self._run_batch(batch)
            if call and call.future.set_running_or_notify_cancel():
                try:
                    call.future.set_result(call.function())
                except BaseException as error:  # noqa: BLE001 - the caller gets it
                    call.future.set_exception(error)

    def _run_batch(self, batch: list[_Ready[Item, Out]]) -> None:
        started = time.monotonic()
        try:
            results = self._run([entry.item for entry in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{self.name!r} returned {len(results)} results for {len(batch)} items")
        except BaseException as error:  # noqa: BLE001 - the callers get it
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            middle = len(batch) // 2
            self._run_batch(batch[:middle])
            self._run_batch(batch[middle:])
            return
        seconds = time.monotonic() - started
        each = seconds / len(batch)
        known = self._seconds_per_item
        self._seconds_per_item = each if not known else known + _SMOOTHING * (each - known)
        if self._on_batch is not None:
            self._on_batch(len(batch), seconds)
        for entry, result in zip(batch, results, strict=True):
            entry.future.set_result(result)


def _fail(future: Future[Any], error: BaseException) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(error)
