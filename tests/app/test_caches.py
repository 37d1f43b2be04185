"""The cache of slow things: loaded once, bounded in bytes, counted again when an entry grows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from app.caches import LoadingCache


class Thing:
    def __init__(self, size: int) -> None:
        self.size = size


def loads(size: int) -> Callable[[], Awaitable[Thing]]:
    async def load() -> Thing:
        return Thing(size)

    return load


def cache(limit: int) -> LoadingCache[str, Thing]:
    return LoadingCache(limit, lambda thing: thing.size)


def test_the_least_recently_used_leave() -> None:
    async def scenario() -> None:
        held = cache(30)
        for key in "abc":
            await held.get(key, loads(10))
        await held.get("a", loads(0))
        await held.get("d", loads(10))
        assert [held.peek(key) is not None for key in "abcd"] == [True, False, True, True]
        assert held.nbytes == 30
        assert (held.hits, held.misses) == (1, 4)

    asyncio.run(scenario())


def test_an_entry_that_grew_is_counted_and_drives_others_out() -> None:
    async def scenario() -> None:
        held = cache(30)
        for key in "abc":
            await held.get(key, loads(10))
        grown = held.peek("a")
        assert grown is not None
        grown.size = 15
        assert held.nbytes == 30  # nobody said so yet
        held.weigh("a", grown)
        assert held.peek("b") is None
        assert held.nbytes == 25
        grown.size = 100  # alone over the limit: it stays, and is counted
        held.weigh("a", grown)
        assert (len(held), held.nbytes) == (1, 100)

    asyncio.run(scenario())


def test_what_left_meanwhile_is_not_counted() -> None:
    async def scenario() -> None:
        held = cache(30)
        old = await held.get("a", loads(10))
        held.drop("a")
        held.weigh("a", old)
        assert held.nbytes == 0
        await held.get("a", loads(20))
        held.weigh("a", old)
        assert held.nbytes == 20

    asyncio.run(scenario())


def test_who_asks_together_loads_once() -> None:
    async def scenario() -> None:
        held, calls = cache(30), []

        async def load() -> Thing:
            calls.append(1)
            await asyncio.sleep(0)
            return Thing(1)

        things = await asyncio.gather(*(held.get("a", load) for _ in range(5)))
        assert len(set(map(id, things))) == len(calls) == 1

    asyncio.run(scenario())
