"""The micro-batcher: order, isolation, bounds, batching, ending. No clock is asserted on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npt_core.errors import ConfigError, OverloadedError
from npt_core.serving import MicroBatcher

TIMEOUT = 20


class Model:
    """Doubles numbers, and remembers its batches and threads; can be held up."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[str] = set()
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()

    def run(self, items: Sequence[int]) -> list[int]:
        self.threads.add(threading.current_thread().name)
        self.entered.set()
        assert self.go.wait(TIMEOUT)
        self.batches.append(list(items))
        if 13 in items:
            raise ValueError("13 is bad luck")
        return [2 * item for item in items]


def prepare(text: str) -> int:
    return int(text)


@contextmanager
def batcher(model: Model, **sizes: int) -> Iterator[MicroBatcher[str, int, int]]:
    made = MicroBatcher(prepare, model.run, name="test", **sizes)
    try:
        yield made
    finally:
        model.go.set()
        assert made.close(TIMEOUT)


@pytest.fixture
def model() -> Model:
    return Model()


def results(futures: Sequence[Future[int]]) -> list[int]:
    return [future.result(TIMEOUT) for future in futures]


def hold(model: Model, made: MicroBatcher[str, int, int]) -> Future[int]:
    """Keep the model thread busy with one item until `model.go` is set."""
    model.go.clear()
    model.entered.clear()
    first = made.submit("0")
    assert model.entered.wait(TIMEOUT)
    return first


def test_a_single_item_runs_alone_and_at_once(model: Model) -> None:
    with batcher(model) as made:
        assert made.submit("21").result(TIMEOUT) == 42
    assert model.batches == [[21]]


def test_what_arrives_during_a_run_is_the_next_batch(model: Model) -> None:
    with batcher(model, max_batch=8, prepare_threads=1) as made:
        first = hold(model, made)
        futures = made.submit_many([str(n) for n in range(1, 7)])
        prepared = made.submit("7")
        wait_until(lambda: len(made._ready) == 7)
        model.go.set()
        assert results([first, *futures, prepared]) == [2 * n for n in range(8)]
    assert model.batches == [[0], [1, 2, 3, 4, 5, 6, 7]]


def test_no_batch_is_larger_than_allowed(model: Model) -> None:
    with batcher(model, max_batch=3) as made:
        assert results(made.submit_many([str(n) for n in range(12)])) == [2 * n for n in range(12)]
    assert max(map(len, model.batches)) <= 3


def test_one_thread_runs_the_model(model: Model) -> None:
    with batcher(model, prepare_threads=4) as made:
        results([made.submit(str(n)) for n in range(12)])
        assert made.call(lambda: threading.current_thread().name).result(TIMEOUT) in model.threads
    assert len(model.threads) == 1


def test_a_bad_item_reaches_only_its_caller(model: Model) -> None:
    with batcher(model) as made:
        futures = made.submit_many(["1", "no number", "3"])
        assert futures[0].result(TIMEOUT) == 2
        assert futures[2].result(TIMEOUT) == 6
        with pytest.raises(ValueError, match="no number"):
            futures[1].result(TIMEOUT)


def test_an_item_that_breaks_its_batch_fails_alone(model: Model) -> None:
    with batcher(model, max_batch=8, prepare_threads=1) as made:
        first = hold(model, made)
        futures = made.submit_many(["11", "12", "13", "14", "15"])
        wait_until(lambda: len(made._ready) == 5)
        model.go.set()
        assert results([first, *futures[:2], *futures[3:]]) == [0, 22, 24, 28, 30]
        with pytest.raises(ValueError, match="bad luck"):
            futures[2].result(TIMEOUT)


def test_too_few_results_are_an_error() -> None:
    made: MicroBatcher[str, int, int] = MicroBatcher(prepare, lambda items: [], name="short")
    with pytest.raises(RuntimeError, match="0 results for 1"):
        made.submit("1").result(TIMEOUT)
    assert made.close(TIMEOUT)


def test_what_waits_is_bounded_and_all_or_none_is_admitted(model: Model) -> None:
    with batcher(model, max_pending=4) as made:
        first = hold(model, made)
        admitted = made.submit_many(["1", "2"])
        with pytest.raises(OverloadedError, match="at most 4") as refusal:
            made.submit_many(["3", "4"])
        assert refusal.value.retry_after_s >= 1
        assert made.pending == 3
        last = made.submit("5")
        with pytest.raises(OverloadedError):
            made.call(lambda: None)
        model.go.set()
        assert results([first, *admitted, last]) == [0, 2, 4, 10]
        wait_until(lambda: made.pending == 0)
        assert made.submit("6").result(TIMEOUT) == 12


def test_more_at_once_than_ever_fits_is_a_mistake_not_an_overload(model: Model) -> None:
    with batcher(model, max_pending=4) as made, pytest.raises(ConfigError, match="at most 4"):
        made.submit_many(["1"] * 5)


def test_a_cancelled_item_is_left_out(model: Model) -> None:
    with batcher(model, prepare_threads=1) as made:
        first = hold(model, made)
        doomed, kept = made.submit_many(["1", "2"])
        wait_until(lambda: len(made._ready) == 2)
        assert doomed.cancel()
        assert made.pending == 2
        model.go.set()
        assert results([first, kept]) == [0, 4]
    assert model.batches == [[0], [2]]


def test_calls_run_between_batches_and_their_errors_reach_the_caller(model: Model) -> None:
    with batcher(model) as made:
        assert made.call(lambda: 7).result(TIMEOUT) == 7
        with pytest.raises(ZeroDivisionError):
            made.call(lambda: 1 // 0).result(TIMEOUT)
        assert made.submit("1").result(TIMEOUT) == 2


def test_closing_answers_what_was_admitted_and_admits_no_more(model: Model) -> None:
    made = MicroBatcher(prepare, model.run, name="test")
    first = hold(model, made)
    rest = made.submit_many(["1", "2", "3"])
    closed: list[bool] = []
    closer = threading.Thread(target=lambda: closed.append(made.close(TIMEOUT)))
    closer.start()
    wait_until(lambda: made.closed)
    with pytest.raises(OverloadedError, match="shutting down"):
        made.submit("4")
    model.go.set()
    closer.join(TIMEOUT)
    assert closed == [True]
    assert results([first, *rest]) == [0, 2, 4, 6]


def test_what_becomes_ready_while_closing_wakes_the_model_not_only_the_closer(model: Model) -> None:
    decoded = threading.Event()

    def slow(text: str) -> int:
        assert text == "0" or decoded.wait(TIMEOUT)
        return int(text)

    made = MicroBatcher(slow, model.run, name="test")
    first = hold(model, made)
    late = made.submit("1")
    closed: list[bool] = []
    closer = threading.Thread(target=lambda: closed.append(made.close(TIMEOUT)))
    closer.start()
    wait_until(lambda: len(made._condition._waiters) == 1)  # the closer waits first ...
    model.go.set()
    assert first.result(TIMEOUT) == 0
    wait_until(lambda: len(made._condition._waiters) == 2)  # ... and the model thread after it
    decoded.set()
    assert late.result(TIMEOUT / 2) == 2
    closer.join(TIMEOUT)
    assert closed == [True]


def test_closing_does_not_wait_for_ever(model: Model) -> None:
    made = MicroBatcher(prepare, model.run, name="test", prepare_threads=1)
    first = hold(model, made)
    rest = made.submit_many(["1", "2"])
    wait_until(lambda: len(made._ready) == 2)
    assert made.close(0.05) is False
    for future in rest:
        with pytest.raises(CancelledError):
            future.result(TIMEOUT)
    model.go.set()
    assert first.result(TIMEOUT) == 0


def test_each_batch_is_reported(model: Model) -> None:
    seen: list[tuple[int, float]] = []
    made = MicroBatcher(prepare, model.run, name="test", on_batch=lambda size, seconds: seen.append((size, seconds)))
    results(made.submit_many(["1", "2", "3"]))
    assert made.close(TIMEOUT)
    assert sum(size for size, _ in seen) == 3
    assert all(seconds >= 0 for _, seconds in seen)


@pytest.mark.parametrize("field", ["max_batch", "max_pending", "prepare_threads"])
def test_sizes_that_cannot_work_are_refused(field: str, model: Model) -> None:
    with pytest.raises(ConfigError, match=field):
        MicroBatcher(prepare, model.run, **{field: 0})


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=10), max_size=12),
    st.integers(1, 9),
    st.integers(1, 4),
)
def test_everyone_gets_exactly_their_answer(groups: list[list[int]], max_batch: int, threads: int) -> None:
    model = Model()
    with batcher(model, max_batch=max_batch, prepare_threads=threads) as made:
        futures = [made.submit_many([str(n) for n in group]) for group in groups]
        for group, answers in zip(groups, futures, strict=True):
            for number, answer in zip(group, answers, strict=True):
                if number == 13:
                    assert isinstance(answer.exception(TIMEOUT), ValueError)
                else:
                    assert answer.result(TIMEOUT) == 2 * number
        wait([future for group in futures for future in group])
    assert all(len(batch) <= max_batch for batch in model.batches)


def wait_until(test: Callable[[], bool]) -> None:
    deadline = threading.Event()
    for _ in range(int(TIMEOUT / 0.005)):
        if test():
            return
        deadline.wait(0.005)
    raise AssertionError("waited in vain")
