"""What a key may use up: the bucket's arithmetic, the same in Redis, shared by processes, alone when Redis is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.access import limits
from app.access.keyring import OPEN_CALLER, Caller
from app.access.limits import TAKE, Bucket, Limiter
from app.access.records import ALL_SCOPES
from app.access.repository import KeyRepository, Wanted
from app.problems import Problem
from app.settings import AppSettings
from tests.support.api import Api, archive, coloured_zip, running_api
from tests.support.redis_server import RedisServer
from worker.redis_url import RedisAddress

RATES = st.floats(0.01, 1000)
BURSTS = st.integers(1, 50)
STEPS = st.lists(st.floats(0, 30) | st.just(0.0) | st.floats(-3600, 0), min_size=1, max_size=60)
"""Seconds between requests; a clock may be set back."""


class TestBucket:
    @settings(deadline=None)
    @given(rate=RATES, burst=BURSTS, steps=STEPS)
    def test_never_more_than_the_burst_and_what_the_time_brings(
        self, rate: float, burst: int, steps: list[float]
    ) -> None:
        """In every window, however it lies: admitted <= burst + rate * time that passed."""
        bucket, now, passed = Bucket(burst, 0.0), 0.0, 0.0
        admitted: list[float] = []
        for step in steps:
            now += step
            passed += max(0.0, step)
            if bucket.take(rate, burst, now) == 0:
                admitted.append(passed)
            assert 0 <= bucket.tokens <= burst
        for first in range(len(admitted)):
            for last in range(first, len(admitted)):
                window = admitted[last] - admitted[first]
                assert last - first + 1 <= burst + rate * window + 1e-6

    @settings(deadline=None)
    @given(rate=RATES, burst=BURSTS, steps=STEPS)
    def test_who_waits_as_told_is_admitted_and_who_does_not_is_not(
        self, rate: float, burst: int, steps: list[float]
    ) -> None:
        bucket, now = Bucket(burst, 0.0), 0.0
        for step in steps:
            now += abs(step)
            wait = bucket.take(rate, burst, now)
            if wait:
                assert Bucket(bucket.tokens, now).take(rate, burst, now + wait * 0.99) > 0
                now += wait
                assert bucket.take(rate, burst, now) < 1e-6 / rate

    def test_a_full_bucket_is_the_burst(self) -> None:
        bucket = Bucket(3, 0.0)
        assert [bucket.take(0.5, 3, 0.0) for _ in range(4)] == [0, 0, 0, 2]
        assert [bucket.take(0.5, 3, 2.0), bucket.take(0.5, 3, 2.0)] == [0, 2]


@settings(deadline=None, max_examples=40)
@given(rate=RATES, burst=BURSTS, steps=STEPS)
def test_redis_counts_the_same(redis_server: RedisServer, rate: float, burst: int, steps: list[float]) -> None:
    with redis_server.client() as client:
        client.delete("bucket")
        take = client.register_script(TAKE)
        now = 1_900_000_000.0  # as large as a clock's number really is
        bucket = Bucket(burst, now)
        for step in steps:
            now += step
            expected = bucket.take(rate, burst, now)
            assert float(take(keys=["bucket"], args=[rate, burst, now])) == pytest.approx(expected, abs=1e-5)
        assert client.ttl("bucket") <= burst / rate + 2


def caller(**limits: int) -> Caller:
    return Caller("key_1", ALL_SCOPES, **limits)


def admitted(limiter: Limiter, who: Caller, times: int) -> int:
    """How many of so many requests at once are let in."""
    refused: list[Problem] = []

    async def ask() -> None:
        for _ in range(times):
            try:
                await limiter.admit(who)
            except Problem as problem:
                refused.append(problem)

    asyncio.get_event_loop_policy().get_event_loop().run_until_complete(ask())
    assert all(one.code == "rate-limited" and int(one.headers["Retry-After"]) >= 1 for one in refused)
    return times - len(refused)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    loop.close()
    asyncio.set_event_loop(None)


@pytest.fixture
def open_limiter(
    make_settings: Callable[..., AppSettings], loop: asyncio.AbstractEventLoop
) -> Iterator[Callable[..., Limiter]]:
    """Opens limiters on one prefix, as several processes do."""
    opened: list[Limiter] = []
    base = make_settings()

    def open_one(url: str = base.redis_address, **changes: int) -> Limiter:
        opened.append(Limiter(RedisAddress.parse(url), base.redis_prefix, base.model_copy(update=changes)))
        return opened[-1]

    yield open_one
    for limiter in opened:
        loop.run_until_complete(limiter.aclose())


def written_down(server: RedisServer) -> None:
    """Wait until all that it knows is in its file: beside a busy disk that takes seconds."""
    with server.client(single_connection_client=True) as mine:
        mine.set("last", "write")
        assert mine.execute_command("WAITAOF", 1, 0, 0)[0] == 1


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stands still for a moment is no Redis that is away."""
    monkeypatch.setattr(limits, "PATIENCE_S", 30.0)


@pytest.mark.usefixtures("patient")
class TestLimiter:
    def test_processes_share_one_bucket(self, open_limiter: Callable[..., Limiter]) -> None:
        one, two = open_limiter(), open_limiter()
        slow = caller(requests_per_minute=1, burst=10)
        assert admitted(one, slow, 7) == 7
        assert admitted(two, slow, 7) == 3
        assert admitted(one, slow, 1) == 0
        assert admitted(one, Caller("key_2", ALL_SCOPES, requests_per_minute=1, burst=1), 2) == 1

    def test_defaults_overrides_and_none_at_all(self, open_limiter: Callable[..., Limiter]) -> None:
        limiter = open_limiter(key_requests_per_minute=1, key_burst=4)
        assert admitted(limiter, Caller("default", ALL_SCOPES), 9) == 1  # never more at once than a minute's
        assert admitted(limiter, Caller("own rate", ALL_SCOPES, requests_per_minute=3), 9) == 3
        assert admitted(limiter, Caller("own burst", ALL_SCOPES, burst=6), 9) == 6
        assert admitted(limiter, Caller("unlimited", ALL_SCOPES, requests_per_minute=0), 50) == 50
        assert admitted(limiter, OPEN_CALLER, 50) == 50
        assert admitted(open_limiter(key_requests_per_minute=0), Caller("any", ALL_SCOPES), 50) == 50

    def test_without_redis_each_process_counts_and_comes_back(
        self,
        open_limiter: Callable[..., Limiter],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(limits, "AWAY_S", 0.0)
        caplog.set_level(logging.INFO)
        slow = caller(requests_per_minute=1, burst=5)
        with RedisServer(aof=True) as server:
            one, two = open_limiter(server.url), open_limiter(server.url)
            assert admitted(one, slow, 4) == 4
            written_down(server)
            server.kill()
            assert [admitted(one, slow, 9), admitted(two, slow, 9)] == [5, 5]  # degraded: once from each
            assert caplog.text.count("redis does not answer") == 2
            server.start()
            assert admitted(one, slow, 9) <= 1  # it has kept the four
            assert "in redis again" in caplog.text

    def test_a_redis_that_hangs_holds_nobody_up_twice(
        self, open_limiter: Callable[..., Limiter], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "PATIENCE_S", 0.5)
        asked = []
        with RedisServer() as server:
            limiter = open_limiter(server.url)
            assert admitted(limiter, caller(requests_per_minute=1, burst=5), 1) == 1
            server.pause()
            take = limiter._take
            monkeypatch.setattr(limiter, "_take", lambda **kw: (asked.append(kw), take(**kw))[1])
            assert admitted(limiter, caller(requests_per_minute=1, burst=5), 9) == 5
            assert len(asked) == 1  # the others did not wait for it
            server.resume()


@pytest.mark.usefixtures("patient")
class TestQuota:
    def test_bytes_of_a_day_are_counted_for_all_processes(
        self, open_limiter: Callable[..., Limiter], loop: asyncio.AbstractEventLoop
    ) -> None:
        one, two = open_limiter(), open_limiter(key_upload_bytes_per_day=5)
        small = caller(upload_bytes_per_day=1000)

        def count(limiter: Limiter, who: Caller, size: int) -> None:
            loop.run_until_complete(limiter.count_upload(who, size))

        count(one, small, 600)
        loop.run_until_complete(two.expect_upload(small, 400))
        with pytest.raises(Problem) as refused:
            loop.run_until_complete(two.expect_upload(small, 401))
        assert refused.value.code == "quota-exceeded"
        assert 1 <= int(refused.value.headers["Retry-After"]) <= 86_400
        count(two, small, 400)
        with pytest.raises(Problem, match="has sent 1,000"):
            count(one, small, 1)
        count(two, OPEN_CALLER, 10**12)
        with pytest.raises(Problem):
            count(two, Caller("default", ALL_SCOPES), 6)

    def test_without_redis_each_process_counts(
        self, open_limiter: Callable[..., Limiter], loop: asyncio.AbstractEventLoop
    ) -> None:
        limiter = open_limiter("unix:///nowhere/redis.sock")
        small = caller(upload_bytes_per_day=10)
        loop.run_until_complete(limiter.count_upload(small, 10))
        for refused in (limiter.count_upload(small, 1), limiter.expect_upload(small, 1)):
            with pytest.raises(Problem):
                loop.run_until_complete(refused)


@pytest.fixture(scope="module")
def limited(make_settings: Callable[..., AppSettings]) -> Iterator[tuple[Api, KeyRepository]]:
    with running_api(make_settings(backbone="demo", key_requests_per_minute=2, key_burst=2)) as api:
        yield api, api.app.state.keyring.repository


def use(limited: tuple[Api, KeyRepository], **wanted: Any) -> httpx.Client:
    api, repository = limited
    _, secret = repository.create(Wanted(("tune", "predict"), **wanted), by="test")
    api.app.state.keyring.refresh()
    return httpx.Client(base_url=api.url, headers={"X-API-Key": secret}, timeout=30)


class TestHTTP:
    def test_too_many_requests(self, limited: tuple[Api, KeyRepository]) -> None:
        with use(limited) as client, use(limited) as other:
            assert [client.get("/jobs").status_code for _ in range(2)] == [200, 200]
            answer = client.get("/v1/models/model_x")
            assert (answer.status_code, answer.json()["code"]) == (429, "rate-limited")
            assert 1 <= int(answer.headers["retry-after"]) <= 30
            assert "2 requests a minute" in answer.json()["detail"]
            assert client.get("/livez").status_code == 200  # public
            assert other.get("/jobs").status_code == 200

    def test_a_key_of_its_own_rate(self, limited: tuple[Api, KeyRepository]) -> None:
        with use(limited, requests_per_minute=0) as client:
            assert {client.get("/jobs").status_code for _ in range(20)} == {200}

    def test_a_request_counts_once_and_refused_ones_count_too(self, limited: tuple[Api, KeyRepository]) -> None:
        with use(limited, requests_per_minute=1, burst=3) as client:
            codes = [client.request("DELETE", "/keys/x").status_code for _ in range(4)]
            assert codes == [403, 403, 403, 429]

    @pytest.mark.parametrize("chunked", [False, True])
    @pytest.mark.parametrize("form", [False, True])
    def test_too_many_bytes(self, limited: tuple[Api, KeyRepository], chunked: bool, form: bool) -> None:
        api, _ = limited
        small = coloured_zip(first_seed=10 + chunked + 2 * form)
        large = archive({f"red/{n}.png": bytes([n]) * 1_500_000 for n in range(3)})
        with use(limited, requests_per_minute=0, upload_bytes_per_day=2_000_000) as client:
            assert client.post("/datasets", **body(small, chunked, form)).status_code == 201
            answer = client.post("/datasets", **body(large, chunked, form))
            assert (answer.status_code, answer.json()["code"]) == (429, "quota-exceeded")
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.headers["connection"] == "close"
            assert api.parts() == []
            again = client.post("/datasets", **body(small, chunked, form))
            # What said its size was refused before it came, and cost nothing; what did not say so came, and counts.
            assert again.status_code == (429 if chunked else 200)


def body(data: bytes, chunked: bool, form: bool) -> dict[str, Any]:
    headers = {"Content-Type": "application/zip"}
    if form:
        request = httpx.Request("POST", "http://x", files={"file": ("a.zip", data)})
        data, headers = request.read(), {"Content-Type": request.headers["content-type"]}
    content = (data[at : at + 200_000] for at in range(0, len(data), 200_000)) if chunked else data
    return {"content": content, "headers": headers}
