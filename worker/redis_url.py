"""One Redis address, three spellings: for redis-py, for redis.asyncio and for Celery; and one that may be logged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from npt_core.errors import ConfigError

if TYPE_CHECKING:
    import redis
    import redis.asyncio

ACCEPTED = "redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///path/to/redis.sock"


@dataclass(frozen=True)
class RedisAddress:
    """Where Redis is. `str()` and `repr()` hide the password."""

    url: str  # what redis-py understands

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """Read an address; also takes Celery's own `redis+socket://`.

        Raises:
            ConfigError: it is none of the accepted forms. The message does not repeat it: it may hold a password.
        """
        if url.startswith("redis+socket://"):
            url = "unix://" + url.removeprefix("redis+socket://")
            query = url.partition("?")[2]
            if "virtual_host=" in query:
                url = url.replace("virtual_host=", "db=")
        try:
            parts = urlsplit(url)
            parts.port  # noqa: B018 - raises when it is no number
        except ValueError as error:
            raise ConfigError(f"NPT_REDIS_URL cannot be read; accepted: {ACCEPTED}.") from error
        if parts.scheme == "unix":
            if not parts.path.startswith("/"):
                raise ConfigError(f"NPT_REDIS_URL is a unix: address without an absolute path; accepted: {ACCEPTED}.")
        elif parts.scheme not in ("redis", "rediss") or not parts.hostname:
            raise ConfigError(f"NPT_REDIS_URL cannot be read; accepted: {ACCEPTED}.")
        return cls(url)

    @property
    def broker_url(self) -> str:
        """The same for Celery, which says `redis+socket://` for a unix socket and `virtual_host` for its database.

        Celery speaks TLS only where it is told how; that certificates are judged is what redis-py does untold.
        """
        parts = urlsplit(self.url)
        if parts.scheme == "rediss" and not any(key == "ssl_cert_reqs" for key, _ in parse_qsl(parts.query)):
            return f"{self.url}{'&' if parts.query else '?'}ssl_cert_reqs=required"
        if parts.scheme != "unix":
            return self.url
        query = [("virtual_host" if key == "db" else key, value) for key, value in parse_qsl(parts.query)]
        login = ""
        if parts.username or parts.password:
            login = f"{quote(unquote(parts.username or ''), safe='')}:{quote(unquote(parts.password or ''), safe='')}@"
        return f"redis+socket://{login}{parts.path}" + (f"?{urlencode(query)}" if query else "")

    @property
    def safe(self) -> str:
        """For logs and messages: no user, no password, no query."""
        parts = urlsplit(self.url)
        if parts.scheme == "unix":
            return f"unix://{parts.path}"
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"

    def __str__(self) -> str:
        return self.safe

    def __repr__(self) -> str:
        return f"RedisAddress({self.safe!r})"

    def client(self, *, socket_timeout: float = 5.0, connect_timeout: float = 5.0, **options: Any) -> redis.Redis:
        """A thread-safe client that answers in `str`."""
        import redis

        return redis.Redis.from_url(
            self.url,
            decode_responses=True,
            socket_timeout=socket_timeout,
            socket_connect_timeout=connect_timeout,
            health_check_interval=15,
            **options,
        )

    def async_client(self, *, socket_timeout: float = 20.0, **options: Any) -> redis.asyncio.Redis:
        """A client of this event loop; its read timeout is longer than any XREAD BLOCK of ours."""
        import redis.asyncio

        return redis.asyncio.Redis.from_url(
            self.url,
            decode_responses=True,
            socket_timeout=socket_timeout,
            socket_connect_timeout=5.0,
            **options,
        )
