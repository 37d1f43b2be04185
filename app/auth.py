"""Who may call: API keys, and the two checks that protect a server that is open on loopback.

Without a key the server is open, but only to this machine. Any web page the user visits could still send requests to
127.0.0.1, so the Host header (DNS rebinding) and the Origin (cross-site POST) are checked before anything is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated
from urllib.parse import urlsplit

import structlog
from fastapi import Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app import problems
from app.access.keyring import OPEN_CALLER, Caller, Keyring
from app.access.records import ADMIN, PREDICT, TUNE
from app.access.repository import FOLDER, KeyRepository
from app.context import context_of
from app.problems import Problem
from app.settings import LOOPBACK_NAMES, AppSettings
from npt_core.errors import ConfigError
from worker.store.opening import open_store

__all__ = ["ADMIN", "PREDICT", "TUNE", "Caller", "SiteGuard", "authorize", "keyring_of", "require"]

_HOST = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::(\d{1,5}))?")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_CHALLENGE = 'Bearer realm="npt-service"'


def keyring_of(settings: AppSettings) -> Keyring:
    """The keys of these settings, and of the store.

    Raises:
        ConfigError: No key that is accepted, none required either, and other machines could connect; or the keys cannot
            be read.
    """
    try:
        store = open_store(settings)
        repository = KeyRepository(store)
        keyring = Keyring(settings.key_entries(), repository, closed=settings.require_key, every_s=store.look_every_s)
    except OSError as error:
        raise ConfigError(
            f"The keys in {settings.place(FOLDER)!r} cannot be read ({error}); give this user the right to."
        ) from error
    if settings.is_public and not settings.require_key and not keyring.has_usable:
        raise ConfigError(
            f"NPT_HOST is {settings.host!r}, which other machines can reach, and there is no API key. "
            "Make one with `python -m app keys create --scope admin`, set NPT_API_KEYS or NPT_API_KEYS_FILE, "
            "listen on 127.0.0.1, or start closed with NPT_REQUIRE_KEY=true."
        )
    return keyring


_bearer = HTTPBearer(auto_error=False, description="`Authorization: Bearer KEY`")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="`X-API-Key: KEY`")


async def authorize(
    request: Request,
    scopes: SecurityScopes,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)] = None,
    header: Annotated[str | None, Security(_header)] = None,
) -> Caller:
    """Dependency of every route that is not public.

    Raises:
        Problem: 401 without a valid key, 403 where the key lacks a scope, 429 where it sends too much.
    """
    keyring: Keyring = request.app.state.keyring
    caller: Caller | None = getattr(request.state, "caller", None)
    if caller is None:  # a route may ask twice, for two scopes; it is one request
        caller = OPEN_CALLER if keyring.is_open else _identified(keyring, bearer, header)
        request.state.caller = caller
        structlog.contextvars.bind_contextvars(key=caller.id)
        await context_of(request).limiter.admit(caller)
    require(caller, scopes.scopes)
    return caller


def require(caller: Caller, scopes: Iterable[str]) -> None:
    """Refuse who lacks one of the scopes.

    Raises:
        Problem: 403.
    """
    needed = set(scopes)
    missing = needed - caller.scopes
    if missing:
        raise Problem(
            "forbidden",
            f"The API key lacks the scope {', '.join(sorted(missing))}; use one that has it, which the operator makes "
            "with `python -m app keys create`.",
            headers={
                "WWW-Authenticate": f'{_CHALLENGE}, error="insufficient_scope", scope="{" ".join(sorted(needed))}"'
            },
        )


def _identified(keyring: Keyring, bearer: HTTPAuthorizationCredentials | None, header: str | None) -> Caller:
    if bearer is None and header is None:
        detail = (
            "This server needs an API key and none was sent. Send `Authorization: Bearer KEY` or `X-API-Key: KEY`; the "
            "operator makes one with `python -m app keys create`."
        )
        raise Problem("unauthorized", detail, headers={"WWW-Authenticate": _CHALLENGE})
    key = bearer.credentials if bearer else header or ""
    caller = keyring.find(key)
    if caller is None:
        challenge = f'{_CHALLENGE}, error="invalid_token"'
        raise Problem("unauthorized", keyring.refusal(key), headers={"WWW-Authenticate": challenge})
    return caller


class SiteGuard:
    """Refuses requests under a name this server does not have, and requests that other sites' pages send.

    Args:
        app: What it protects.
        settings: Names and origins that are allowed.
        is_open: Whether no key is needed now, so that the Host header must be a known name. Where a key is needed a
            rebinding page has none, and the name is only checked if the operator listed names.
    """

    def __init__(self, app: ASGIApp, settings: AppSettings, is_open: Callable[[], bool]) -> None:
        self.app = app
        self._is_open, self._names_listed = is_open, bool(settings.allowed_hosts)
        names = {*LOOPBACK_NAMES, *(name.lower() for name in settings.allowed_hosts)}
        if settings.host not in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
            names.add(f"[{settings.host}]" if ":" in settings.host else settings.host.lower())
        self._names = frozenset(names)
        self._origins = frozenset(origin.rstrip("/").lower() for origin in settings.allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 400 or 403."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope["method"], Headers(scope=scope))
        if refusal is None:
            await self.app(scope, receive, send)
            return
        answer = problems.response(
            refusal.code, refusal.detail, instance=scope["path"][:500], headers={"Connection": "close"}
        )
        await answer(scope, receive, send)

    def _refusal(self, method: str, headers: Headers) -> Problem | None:
        hosts = headers.getlist("host")
        match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if match is None:
            return Problem("malformed-request", "The request needs exactly one valid Host header.")
        if "content-length" in headers and "transfer-encoding" in headers:  # a proxy may have believed the other one
            return Problem("malformed-request", "The request has a length and a transfer coding; send one of the two.")
        name, port = match[1].lower(), match[2]
        if name not in self._names and (self._names_listed or self._is_open()):
            return Problem(
                "forbidden-host",
                f"This server is not called {name!r}. Use {', '.join(sorted(self._names))}; "
                "the operator can add names with NPT_ALLOWED_HOSTS.",
            )
        return self._origin_refusal(method, headers, name, port)

    def _origin_refusal(self, method: str, headers: Mapping[str, str], name: str, port: str | None) -> Problem | None:
        origin = headers.get("origin")
        if origin is not None:
            if origin.lower() in self._origins or _same_site(origin, name, port):
                return None
            return Problem("forbidden-origin", f"Pages of {origin[:200]!r} may not call this server.")
        if method not in _SAFE_METHODS and headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return Problem("forbidden-origin", "Another site's page sent this request.")
        return None


def _same_site(origin: str, name: str, port: str | None) -> bool:
    """The page that sends the request came from this very server (TLS may end before it)."""
    try:
        parts = urlsplit(origin)
        origin_port = parts.port
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or parts.hostname is None:
        return False
    default = 443 if parts.scheme == "https" else 80
    same_name = parts.hostname.lower() == name.strip("[]")
    return same_name and (origin_port or default) == (int(port) if port else default)
