"""The service opens no connection that a request asked for, and none to another machine."""

from __future__ import annotations

import ast
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.security.conftest import Target
from tests.security.corpus.case import GOOD, PREDICT
from tests.support.service import ROOT
from tests.support.zips import RawEntry, raw_zip

FETCHERS = frozenset(
    {
        *("requests", "urllib.request", "urllib3", "aiohttp", "ftplib", "http.client", "httpx", "smtplib"),
        *("botocore", "boto3", "huggingface_hub", "open_clip", "torch.hub"),
    }
)
MAY_SPEAK = {
    "app/embedded.py": {"http.client"},  # to its own child, on the address it listens on
    "app/client/": {"httpx"},  # a program of its own: it runs on the machine of who uses it
    "app/cli/": {"httpx"},
    "npt_core/clip/": {"open_clip"},  # weights that the operator names
    "worker/store/s3/": {"botocore"},  # the bucket that the operator names
}
"""Who imports something that can fetch, and what."""


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _fetchers(names: set[str]) -> set[str]:
    return {one for one in FETCHERS for name in names if name == one or name.startswith(f"{one}.")}


def _fetching() -> Iterator[tuple[str, set[str]]]:
    """Each file of the service, and what it imports that can fetch."""
    for package in ("app", "worker", "npt_core"):
        for path in (ROOT / package).rglob("*.py"):
            yield path.relative_to(ROOT).as_posix(), _fetchers(_imports(path))


def test_nothing_that_can_fetch_is_imported_but_where_it_is_meant_to() -> None:
    wrong, used = {}, {place: set[str]() for place in MAY_SPEAK}
    for name, found in _fetching():
        places = [place for place in MAY_SPEAK if name.startswith(place)]
        for place in places:
            used[place] |= found & MAY_SPEAK[place]
        if strange := found.difference(*(MAY_SPEAK[place] for place in places)):
            wrong[name] = strange
    assert wrong == {}
    assert used == MAY_SPEAK  # nothing is allowed that nobody needs


def test_the_guard_would_see_an_import(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from urllib import request\n    import httpx\n")
    assert _fetchers(_imports(file)) == {"urllib.request", "httpx"}


@contextmanager
def trap() -> Iterator[tuple[str, list[bytes]]]:
    """An address that remembers who came."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        stop = threading.Event()

        def wait() -> None:
            while not stop.is_set():
                try:
                    caller, _ = server.accept()
                except TimeoutError:
                    continue
                with caller:
                    seen.append(caller.recv(200))

        thread = threading.Thread(target=wait)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}", seen
        finally:
            stop.set()
            thread.join()


def test_the_trap_catches() -> None:
    with trap() as (url, seen):
        port = int(url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as line:
            line.sendall(b"here")
            line.shutdown(socket.SHUT_WR)
            assert line.recv(10) == b""
    assert seen == [b"here"]


def test_addresses_in_requests_are_words(target: Target) -> None:
    with trap() as (url, seen):
        client = target.client
        rows = "\n".join(json.dumps({"file_name": f"{url}/{n}.png", "label": f"l{n}"}) for n in range(2))
        zipped = raw_zip([*GOOD, RawEntry(b"metadata.jsonl", rows.encode())])
        svg = f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}/x.png"/></svg>'.encode()
        xml = f'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "{url}/x">]><a>&x;</a>'.encode()
        png = {"headers": {"Content-Type": "image/png"}}
        answers = [
            client.post("/datasets", content=zipped, headers={"Content-Type": "application/zip"}),
            client.post(PREDICT, content=svg, **png),
            client.post(PREDICT, content=xml, **png),
            client.post(PREDICT, content=url.encode(), **png),
            client.post("/datasets", files={"file": ("a.zip", url.encode())}),
            client.post("/datasets", data={"file": url}),
            client.post("/tune", data={"dataset": url}),
            client.post("/tune", data={"dataset_id": url}),
            client.post("/tune", data={"dataset_id": "0" * 64, "config": json.dumps({"backbone": f"hf-hub:{url}"})}),
            client.post("/tune", data={"dataset_id": "0" * 64, "config": json.dumps({"parent": url})}),
            client.post("/models/import", files={"file": ("a.zip", url.encode())}),
            client.post("/predict", data={"model": url, "labels": '["a", "b"]'}, files={"images": ("a.png", svg)}),
            client.post("/embed", data={"texts": json.dumps([url]), "backbone": url}),
            client.put("/aliases/a", json={"model": url}),
            client.get("/web/" + url),
            client.get("/jobs", headers={"X-Forwarded-Host": url, "Forwarded": f"host={url}", "Referer": url}),
        ]
    assert seen == []
    assert all(answer.status_code < 500 for answer in answers)
    assert [answer.status_code for answer in answers[:-1] if answer.is_success] == []


@pytest.mark.skipif(not hasattr(psutil.Process(), "net_connections"), reason="an old psutil")
def test_its_processes_speak_to_this_machine_alone(target: Target) -> None:
    strangers = []
    for pid in target.service.processes():
        for line in psutil.Process(pid).net_connections("inet"):
            if line.raddr and not line.raddr.ip.startswith(("127.", "::1", "::ffff:127.")):
                strangers.append((pid, line.raddr))
    assert strangers == []
