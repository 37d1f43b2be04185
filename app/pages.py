"""The web page and the interactive documentation. Nothing on them comes from another server.

Every file that may be asked for is in one table made at the first request: no path is made of a request. Each has an
`ETag`, and browsers ask again whether it changed, so that a page never runs against scripts of another version.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from types import MappingProxyType

from fastapi import APIRouter, Request, Response

from app.problems import Problem

router = APIRouter(include_in_schema=False)

_COMMON = "default-src 'none'; script-src 'self'; connect-src 'self'; font-src 'self' data:; base-uri 'none'; "
_COMMON += "form-action 'none'; frame-ancestors 'none'; "
CSP = _COMMON + (
    "style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "require-trusted-types-for 'script'; trusted-types 'none'"  # no text becomes markup, whoever wrote it
)
DOCS_CSP = _COMMON + "style-src 'self' 'unsafe-inline'; img-src 'self' data:"  # Swagger UI styles its elements
PERMISSIONS = "camera=(self), microphone=(), geolocation=(), payment=(), usb=()"

_TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".md": "text/plain; charset=utf-8",
    ".LICENSE": "text/plain; charset=utf-8",
    ".zip": "application/zip",
}
_AS_IT_IS = frozenset({".zip"})
"""What gzip makes no smaller."""

SWAGGER = ("swagger-ui.css", "swagger-ui-bundle.js")


@dataclass(frozen=True)
class File:
    """One file as it is sent."""

    kind: str
    plain: bytes
    packed: bytes | None
    tag: str

    @classmethod
    def of(cls, name: str, content: bytes) -> File:
        """Read what a file is from its name."""
        suffix = name[name.rindex(".") :]
        packed = None if suffix in _AS_IT_IS else gzip.compress(content, mtime=0)
        return cls(_TYPES[suffix], content, packed, hashlib.sha256(content).hexdigest()[:32])

    def answer(self, request: Request, headers: Mapping[str, str]) -> Response:
        """Send it, packed where the browser takes that, or say that it has not changed."""
        packs = self.packed is not None and _takes_gzip(request.headers.get("accept-encoding", ""))
        tag = f'"{self.tag}-gz"' if packs else f'"{self.tag}"'
        told = {"ETag": tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding", **headers}
        if tag in {one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")}:
            return Response(status_code=304, headers=told)
        told["Content-Type"] = self.kind
        if packs and self.packed is not None:
            return Response(self.packed, headers=told | {"Content-Encoding": "gzip"})
        return Response(self.plain, headers=told)


def _takes_gzip(accept: str) -> bool:
    for part in accept.lower().split(","):
        name, _, weight = part.strip().partition(";")
        if name.strip() == "gzip":
            return weight.strip().replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _walk(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        name = prefix + entry.name
        if entry.is_dir():
            yield from _walk(entry, f"{name}/")
        elif entry.name[entry.name.rfind(".") :] in _TYPES:
            yield name, entry


@cache
def files() -> Mapping[str, File]:
    """Every file that may be asked for, by its path below `/web/`."""
    found = {name: File.of(name, entry.read_bytes()) for name, entry in _walk(resources.files("app") / "web")}
    swagger = resources.files("fastapi_offline") / "static"  # from a package that carries Swagger UI
    found |= {name: File.of(name, (swagger / name).read_bytes()) for name in SWAGGER}
    return MappingProxyType(found)


@router.get("/")
def index(request: Request) -> Response:
    """The page: from pictures to a classifier."""
    headers = {"Content-Security-Policy": CSP, "Permissions-Policy": PERMISSIONS}
    return files()["index.html"].answer(request, headers)


@router.get("/docs")
def docs(request: Request) -> Response:
    """Swagger UI on this server's own files."""
    return files()["docs.html"].answer(request, {"Content-Security-Policy": DOCS_CSP})


@router.get("/web/{path:path}")
def file(request: Request, path: str) -> Response:
    """One of the files above."""
    found = files().get(path)
    if found is None:
        raise Problem("not-found", "There is no such file; / is the page.")
    return found.answer(request, {})
