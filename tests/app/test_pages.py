"""What the server sends for the page: types, validators, policies; and that the page's files fit together."""

from __future__ import annotations

import gzip
import hashlib
import re
from pathlib import Path

import pytest

from app.pages import files
from tests.support.api import Api
from tests.support.service import ROOT

WEB = ROOT / "app" / "web"
SCRIPTS = sorted((WEB / "js").rglob("*.js"))
IMPORT = re.compile(r'(?:import|from)\s+"([^"]+)"')
DIRECTIVES = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self' data: blob:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}


def test_the_page_may_load_and_run_nothing_but_this_server_s_files(api: Api) -> None:
    answer = api.client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy.items() >= DIRECTIVES.items()
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert "camera=(self)" in answer.headers["permissions-policy"]
    assert re.findall(r"<script(?![^>]*\bsrc=)", answer.text) == []
    assert re.findall(r"\son\w+=|\sstyle=", answer.text) == []
    for reference in re.findall(r'(?:src|href)="(web/[^"]+)"', answer.text):
        assert api.client.get(f"/{reference}").status_code == 200, reference


def test_the_documentation_stays(api: Api) -> None:
    answer = api.client.get("/docs")
    assert answer.status_code == 200
    for reference in re.findall(r'(?:src|href)="(web/[^"]+)"', answer.text):
        assert api.client.get(f"/{reference}").status_code == 200, reference


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("js/main.js", "text/javascript; charset=utf-8"),
        ("css/base.css", "text/css; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
        ("samples/digits.zip", "application/zip"),
        ("vendor/uplot.LICENSE", "text/plain; charset=utf-8"),
        ("swagger-ui.css", "text/css; charset=utf-8"),
    ],
)
def test_files_have_their_types_and_a_validator(api: Api, name: str, kind: str) -> None:
    first = api.client.get(f"/web/{name}", headers={"Accept-Encoding": "identity"})
    assert first.status_code == 200
    assert first.headers["content-type"] == kind
    assert first.headers["cache-control"] == "no-cache"
    assert first.headers["x-content-type-options"] == "nosniff"
    again = api.client.get(
        f"/web/{name}", headers={"Accept-Encoding": "identity", "If-None-Match": first.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    other = api.client.get(f"/web/{name}", headers={"Accept-Encoding": "identity", "If-None-Match": '"old", W/"older"'})
    assert other.status_code == 200


def test_text_travels_packed_where_the_browser_takes_that(api: Api) -> None:
    with api.client.stream("GET", "/web/vendor/uplot.js", headers={"Accept-Encoding": "br, gzip"}) as packed:
        raw = b"".join(packed.iter_raw())
    assert packed.headers["content-encoding"] == "gzip"
    plain = api.client.get("/web/vendor/uplot.js", headers={"Accept-Encoding": "gzip;q=0"})
    assert "content-encoding" not in plain.headers
    assert gzip.decompress(raw) == plain.content
    assert len(raw) < len(plain.content) / 2
    assert packed.headers["etag"] != plain.headers["etag"]
    assert "content-encoding" not in api.client.get("/web/samples/digits.zip").headers


@pytest.mark.parametrize("path", ["none.js", "../pages.py", "js", "js/", "", "js/../../pages.py", "%2e%2e/pages.py"])
def test_nothing_else_is_sent(api: Api, path: str) -> None:
    answer = api.client.get(f"{api.url}/web/{path}")
    assert answer.status_code == 404


def test_every_import_leads_to_a_file_that_is_sent() -> None:
    assert len(SCRIPTS) > 20
    for script in SCRIPTS:
        for target in IMPORT.findall(script.read_text()):
            found = (script.parent / target).resolve()
            assert found.relative_to(WEB).as_posix() in files(), f"{script.name} imports {target}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.relative_to(WEB).as_posix())
def test_no_script_makes_markup_of_text_or_speaks_to_another_server(script: Path) -> None:
    text = script.read_text()
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text) == []
    assert set(re.findall(r"https?://[^\s\"'`]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert len(text.splitlines()) < 300


def test_libraries_are_the_pinned_ones_with_their_licences() -> None:
    rows = re.findall(r"^\| (\S+) \|.*\| `([0-9a-f]{64})` \|$", (WEB / "vendor" / "THIRD_PARTY.md").read_text(), re.M)
    found = {path.name for path in (WEB / "vendor").glob("*") if path.suffix in (".js", ".css")}
    assert {name for name, _ in rows} == found
    for name, digest in rows:
        assert hashlib.sha256((WEB / "vendor" / name).read_bytes()).hexdigest() == digest, name
        assert "MIT" in (WEB / "vendor" / f"{name.rsplit('.', 1)[0]}.LICENSE").read_text()


def test_the_sample_is_the_example() -> None:
    assert (WEB / "samples" / "digits.zip").read_bytes() == (ROOT / "examples" / "digits.zip").read_bytes()
