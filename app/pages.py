"""The few pages: what this is, and the interactive documentation. Nothing on them comes from another server."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Response

from app.problems import Problem

router = APIRouter(include_in_schema=False)

_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "font-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_DOCS_CSP = _CSP.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")  # Swagger UI styles its elements

_TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}


def _own() -> Traversable:
    return resources.files("app") / "web"


def _swagger() -> Traversable:
    """Swagger UI's files, from a package that carries them."""
    return resources.files("fastapi_offline") / "static"


FILES: Mapping[str, tuple[str, str]] = {  # what may be asked for -> where it lies; no path is made of a request
    "style.css": ("own", "style.css"),
    "index.js": ("own", "index.js"),
    "docs.js": ("own", "docs.js"),
    "swagger-ui.css": ("swagger", "swagger-ui.css"),
    "swagger-ui-bundle.js": ("swagger", "swagger-ui-bundle.js"),
}


@cache
def _read(place: str, name: str) -> bytes:
    folder = _own() if place == "own" else _swagger()
    return (folder / name).read_bytes()


def _answer(place: str, name: str, headers: Mapping[str, str]) -> Response:
    kind = _TYPES[name[name.rindex(".") :]]
    return Response(_read(place, name), headers={"Content-Type": kind, **headers})


@router.get("/")
def index() -> Response:
    """What this is, and where to go."""
    return _answer("own", "index.html", {"Content-Security-Policy": _CSP})


@router.get("/docs")
def docs() -> Response:
    """Swagger UI on this server's own files."""
    return _answer("own", "docs.html", {"Content-Security-Policy": _DOCS_CSP})


@router.get("/web/{name}")
def file(name: str) -> Response:
    """One of the files above."""
    if name not in FILES:
        raise Problem("not-found", "There is no such file; / is the page.")
    return _answer(*FILES[name], {"Cache-Control": "public, max-age=3600"})
