"""Backbones that drive each other out of the memory: whoever is being answered is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.backbones import Backbones
from app.metrics import Metrics
from app.settings import AppSettings
from npt_core.errors import OverloadedError
from tests.support.api import png, running_api

NAMES = ("tiny", "other")


@pytest.fixture(scope="module")
def cramped(make_settings: Callable[..., AppSettings], towers: tuple[str, str]) -> AppSettings:
    """Two backbones, and memory for one."""
    return make_settings(backbone=towers[0], backbones=(towers[1],), backbone_memory_bytes=1)


def test_a_backbone_is_closed_after_its_last_user(cramped: AppSettings) -> None:
    dropped: list[str] = []

    async def scenario() -> None:
        backbones = Backbones(cramped, Metrics(), dropped.append)
        first, second = NAMES
        async with backbones.use(first) as loaded:
            async with backbones.use(first) as same:
                assert same is loaded
                await backbones.get(second)
                assert dropped == [first]
                assert await loaded.look([png()], features=True)
            assert await loaded.look([png()], features=True)  # one user is left
            async with backbones.use(first) as fresh:
                assert fresh is not loaded
        while not loaded.batcher.closed:
            await asyncio.sleep(0.01)
        with pytest.raises(OverloadedError):
            await loaded.look([png()], features=True)
        assert await fresh.look([png()], features=True)  # in memory, and used by nobody
        await backbones.close()
        with pytest.raises(OverloadedError):
            await fresh.look([png()], features=True)

    asyncio.run(scenario())


def test_a_server_that_stops_waits_for_no_user(cramped: AppSettings) -> None:
    async def scenario() -> None:
        backbones = Backbones(cramped, Metrics(), lambda name: None)
        async with backbones.use() as loaded:
            await backbones.close()
            assert loaded.batcher.closed

    asyncio.run(scenario())


def test_requests_over_backbones_that_do_not_fit_together_are_all_answered(cramped: AppSettings) -> None:
    with running_api(cramped) as api, ThreadPoolExecutor(4) as pool:

        def ask(number: int) -> tuple[int, str]:
            if number % 3:
                answer = api.client.post(
                    "/predict",
                    files={"images": ("a.png", png("red", number))},
                    data={"model": "zero-shot", "labels": f'["red", "{number}"]', "backbone": NAMES[number % 2]},
                )
            else:
                answer = api.client.post("/embed", data={"texts": '["red"]', "backbone": NAMES[number % 2]})
            return answer.status_code, answer.text

        answers = list(pool.map(ask, range(24)))
    assert [text for status, text in answers if status != 200] == []
