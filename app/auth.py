"""Who may call: API keys, and the two checks that protect a server that is open on loopback.

Without a key the server is open, but only to this machine. Any web page the user visits could still send requests to
127.0.0.1, so the Host header (DNS rebinding) and the Origin (cross-site POST) are checked before anything is read.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app import problems
from app.problems import Problem
from app.settings import LOOPBACK_NAMES, AppSettings
from npt_core.errors import ConfigError

TUNE, PREDICT, ADMIN = "tune", "predict", "admin"
ALL_SCOPES = frozenset({TUNE, PREDICT, ADMIN})
MIN_KEY_LENGTH = 16
_DIGEST = re.compile(r"sha256:([0-9a-fA-F]{64})")
_HOST = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::(\d{1,5}))?")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class Caller:
    """Who sends a request: the start of the key's digest (never the key), and what it may do."""

    id: str
    scopes: frozenset[str]


OPEN_CALLER = Caller("local", ALL_SCOPES)


class Keyring:
    """The configured keys, held as digests only.

    Args:
        entries: Keys as configured: `sha256:<hex>`, or plain text of at least 16 characters.

    Raises:
        ConfigError: An entry is neither.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self._digests: list[bytes] = []
        for number, entry in enumerate(entries, 1):
            match = _DIGEST.fullmatch(entry)
            if match:
                self._digests.append(bytes.fromhex(match[1]))
            elif entry.startswith("sha256:"):
                raise ConfigError(f"API key {number} starts with `sha256:` but 64 hex digits must follow.")
            elif len(entry) < MIN_KEY_LENGTH or not entry.isascii() or not entry.isprintable() or " " in entry:
                raise ConfigError(
                    f"API key {number} is refused: it needs at least {MIN_KEY_LENGTH} ASCII characters and no space. "
                    'Make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"'
                )
            else:
                self._digests.append(hashlib.sha256(entry.encode()).digest())

    @property
    def is_open(self) -> bool:
        """True where no key was configured."""
        return not self._digests

    def find(self, key: str) -> Caller | None:
        """The caller a key belongs to. Every digest is compared, in constant time."""
        digest = hashlib.sha256(key.encode("utf-8", errors="surrogateescape")).digest()
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(known, digest)
        return Caller(digest.hex()[:12], ALL_SCOPES) if found else None


def keyring_of(settings: AppSettings) -> Keyring:
    """The keys of these settings.

    Raises:
        ConfigError: No key, and other machines could connect.
    """
    keyring = Keyring(settings.key_entries())
    if keyring.is_open and settings.is_public:
        raise ConfigError(
            f"NPT_HOST is {settings.host!r}, which other machines can reach, and no API key is configured. "
            "Set NPT_API_KEYS or NPT_API_KEYS_FILE, or listen on 127.0.0.1."
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
        Problem: 401 without a valid key, 403 where the key lacks a scope.
    """
    keyring: Keyring = request.app.state.keyring
    if keyring.is_open:
        return OPEN_CALLER
    caller = keyring.find(bearer.credentials if bearer else header or "")
    challenge = {"WWW-Authenticate": 'Bearer realm="npt-service"'}
    if caller is None:
        given = bearer is not None or header is not None
        detail = "The API key is not known here." if given else "This server needs an API key and none was sent."
        raise Problem("unauthorized", detail, headers=challenge)
    missing = set(scopes.scopes) - caller.scopes
    if missing:
        raise Problem("forbidden", f"The API key lacks the scope {', '.join(sorted(missing))}.")
    request.state.caller = caller
    return caller


class SiteGuard:
    """Refuses requests under a name this server does not have, and requests that other sites' pages send.

    Args:
        app: What it protects.
        settings: Names and origins that are allowed.
        open_access: No key is needed, so the Host header must be a known name. Where a key is needed a rebinding page
            has none, and the name is only checked if the operator listed names.
    """

    def __init__(self, app: ASGIApp, settings: AppSettings, *, open_access: bool) -> None:
        self.app = app
        self._check_host = open_access or bool(settings.allowed_hosts)
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
        name, port = match[1].lower(), match[2]
        if self._check_host and name not in self._names:
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
