"""POST /datasets and the road an archive takes: form and raw body, limits, broken senders, nothing left behind."""

from __future__ import annotations

import io
import os
import socket
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from app import bodies, uploads
from app.settings import AppSettings
from tests.support.api import Api, archive, coloured_zip, png, running_api

ZIP = {"Content-Type": "application/zip"}


@pytest.fixture(scope="module")
def small(make_settings: Callable[..., AppSettings]) -> Iterator[Api]:
    """A server with small limits and little patience."""
    settings = make_settings(max_archive_bytes=200_000, upload_idle_s=0.5, uploads_at_once=1)
    with running_api(settings) as running:
        yield running


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == code
    body: dict[str, Any] = answer.json()
    return body


def clean(api: Api) -> bool:
    """Nothing of an upload is left, neither on disk nor at the desk."""
    for _ in range(200):
        if not api.parts() and api.app.state.context.uploads.active == 0:
            return True
        threading.Event().wait(0.05)
    return False


def slowly(data: bytes, size: int = 65536) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


class TestAccepted:
    def test_a_form_that_is_written_in_many_pieces(self, plain: Api) -> None:
        filler = {f"a/.hidden-{n}": os.urandom(uploads.FLUSH_BYTES) for n in range(4)}  # skipped, but it has to arrive
        data = archive({f"{label}/{n}.png": png(label, n) for label in ("red", "blue") for n in range(3)} | filler)
        answer = plain.client.post("/datasets", files={"file": ("large.zip", data, "application/zip")})
        assert answer.status_code == 201, answer.text
        assert answer.json()["images"] == 6
        assert clean(plain)

    def test_a_form_then_the_same_as_a_raw_body(self, plain: Api) -> None:
        data = coloured_zip(3, first_seed=1)
        answer = plain.client.post("/datasets", files={"file": ("mine.zip", data, "application/zip")})
        assert answer.status_code == 201, answer.text
        body = answer.json()
        assert answer.headers["location"] == f"/datasets/{body['id']}"
        assert body["filename"] == "mine.zip"
        assert body["images"] == 9
        assert body["classes"] == [{"label": label, "images": 3} for label in ("blue", "green", "red")]
        assert body["splits"] == {"train": {"blue": 3, "green": 3, "red": 3}}
        assert isinstance(body["audit"]["findings"], list)
        again = plain.client.post("/datasets", content=data, headers=ZIP, params={"filename": "other.zip"})
        assert again.status_code == 200
        assert again.json()["id"] == body["id"]
        assert plain.client.get(f"/datasets/{body['id']}").json() == body
        assert body["id"] in {one["id"] for one in plain.client.get("/datasets").json()["items"]}
        assert clean(plain)

    def test_chunked_without_a_length(self, plain: Api) -> None:
        answer = plain.client.post("/datasets", content=slowly(coloured_zip(3, first_seed=2), 1000), headers=ZIP)
        assert answer.status_code == 201, answer.text

    def test_splits_what_was_skipped_and_what_was_left_out(self, plain: Api) -> None:
        entries = {
            f"{split}/{c}/{n}.png": png(c, n) for split in ("train", "test") for c in ("red", "blue") for n in range(2)
        }
        entries |= {"train/red/broken.png": b"\x89PNG no", ".DS_Store": b"x", "train/red/notes.txt": b"no picture"}
        body = plain.client.post("/datasets", files={"file": ("s.zip", archive(entries))}).json()
        assert body["splits"]["train"] == {"blue": 2, "red": 2}
        assert body["splits"]["test"] == {"blue": 2, "red": 2}
        assert "train/red/broken.png" in {one["path"] for one in body["left_out"]}
        assert body["skipped"]

    def test_delete(self, plain: Api) -> None:
        dataset = plain.client.post("/datasets", content=coloured_zip(3, first_seed=3), headers=ZIP).json()["id"]
        assert plain.client.delete(f"/datasets/{dataset}").status_code == 204
        assert plain.client.get(f"/datasets/{dataset}").status_code == 404
        assert plain.client.delete(f"/datasets/{dataset}").status_code == 404

    def test_what_a_job_needs_cannot_be_deleted(self, plain: Api) -> None:
        dataset = plain.client.post("/datasets", content=coloured_zip(3, first_seed=4), headers=ZIP).json()["id"]
        job, _ = plain.services.start_job("probe", {}, dataset_id=dataset)
        refused(plain.client.delete(f"/datasets/{dataset}"), 409, "conflict")
        plain.services.cancel_job(job.id)
        assert plain.client.delete(f"/datasets/{dataset}").status_code == 204

    @pytest.mark.parametrize("name", ["../../../tmp/x.zip", "/etc/passwd", "a\\..\\b.zip", "<b>.zip", "n" * 5000])
    def test_a_filename_is_only_text(self, plain: Api, name: str) -> None:
        data = coloured_zip(3, first_seed=5)
        answer = plain.client.post("/datasets", content=data, headers=ZIP, params={"filename": name})
        assert answer.status_code in (200, 201)
        if answer.status_code == 201:  # a known data set keeps the name it came with first
            assert answer.json()["filename"] == name[:255]
        assert all(path.is_relative_to(plain.settings.data_dir) for path in plain.settings.data_dir.rglob("*"))


class TestArchives:
    def test_every_fault_at_once(self, plain: Api) -> None:
        data = archive({"../out.png": png(), "/abs.png": png(), "red/ok.png": png()})
        body = refused(plain.client.post("/datasets", content=data, headers=ZIP), 422, "invalid-archive")
        assert {"../out.png", "/abs.png"} <= {one["path"] for one in body["errors"]}
        assert clean(plain)

    @pytest.mark.parametrize("data", [b"", b"x", b"PK\x03\x04", png(), b"<html></html>", coloured_zip()[:-30]])
    def test_no_archive_at_all(self, plain: Api, data: bytes) -> None:
        answer = plain.client.post("/datasets", content=data, headers=ZIP)
        refused(answer, 422, "invalid-archive")
        assert clean(plain)

    def test_nothing_to_learn_from(self, plain: Api) -> None:
        data = archive({"red/1.png": png(), "red/2.png": png("red", 2)})
        refused(plain.client.post("/datasets", content=data, headers=ZIP), 422, "unusable-dataset")

    def test_a_bomb(self, plain: Api) -> None:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("red/1.png", b"\0" * 30_000_000)
        answer = plain.client.post("/datasets", content=out.getvalue(), headers=ZIP)
        assert answer.status_code in (413, 422)
        assert clean(plain)


class TestLimits:
    def test_an_announced_length_over_the_limit(self, small: Api) -> None:
        answer = small.client.post("/datasets", content=os.urandom(8_000_000), headers=ZIP)
        body = refused(answer, 413, "too-large")
        assert "200,000" in body["detail"]
        assert answer.headers["connection"] == "close"
        assert clean(small)

    def test_an_unannounced_one(self, small: Api) -> None:
        answer = small.client.post("/datasets", content=slowly(os.urandom(400_000)), headers=ZIP)
        refused(answer, 413, "too-large")
        assert clean(small)

    def test_a_file_in_a_form(self, small: Api) -> None:
        answer = small.client.post("/datasets", files={"file": ("a.zip", os.urandom(400_000))})
        refused(answer, 413, "too-large")
        assert clean(small)

    def test_a_silent_sender_is_ended(self, small: Api) -> None:
        with talk(small) as line:
            line.sendall(head(small, "Content-Length: 1000") + b"PK\x03\x04")
            status, text = hear(line)
        assert status == 408
        assert '"request-timeout"' in text
        assert clean(small)

    @pytest.mark.parametrize("lines", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
    def test_a_trickling_sender_is_ended_and_its_place_is_free(self, small: Api, lines: str) -> None:
        piece = b"x" if "Length" in lines else b"1\r\nx\r\n"
        with talk(small) as line:
            line.sendall(head(small, lines) + piece)
            trickle(line, piece, 200)
            status, text = hear(line)
        assert status == 408
        assert "16,384 bytes a second" in text
        assert clean(small)
        assert small.client.post("/datasets", content=coloured_zip(3, 60), headers=ZIP).status_code in (200, 201)

    def test_a_small_body_that_trickles_is_ended_too(self, plain: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bodies, "WHOLE_S", 0.5)
        about = f"Host: {urlsplit(plain.url).netloc}\r\nContent-Type: application/json\r\nContent-Length: 60"
        with talk(plain) as line:
            line.sendall(f"PUT /aliases/slow HTTP/1.1\r\n{about}\r\n\r\n{{".encode())
            trickle(line, b" ", 50)
            status, text = hear(line)
        assert status == 408
        assert "took over 0.5 s" in text

    def test_a_sender_that_hangs_up(self, small: Api) -> None:
        with talk(small) as line:
            line.sendall(head(small, "Content-Length: 100000") + b"PK\x03\x04" + b"x" * 50_000)
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert clean(small)
        assert small.client.get("/livez").status_code == 200

    def test_one_too_many_at_once(self, make_settings: Callable[..., AppSettings]) -> None:
        with running_api(make_settings(uploads_at_once=1)) as small:
            with talk(small) as line:
                line.sendall(head(small, "Transfer-Encoding: chunked") + b"4\r\nPK\x03\x04\r\n")
                for _ in range(100):
                    if small.app.state.context.uploads.active:
                        break
                    threading.Event().wait(0.02)
                answer = small.client.post("/datasets", content=coloured_zip(), headers=ZIP)
                refused(answer, 503, "overloaded")
                assert int(answer.headers["retry-after"]) > 0
            assert clean(small)
            assert small.client.post("/datasets", content=coloured_zip(3, 50), headers=ZIP).status_code == 201

    def test_a_full_volume_is_known_before(self, make_settings: Callable[..., AppSettings]) -> None:
        with running_api(make_settings(min_free_bytes=10**18)) as full:
            answer = full.client.post("/datasets", content=coloured_zip(), headers=ZIP)
            refused(answer, 507, "store-full")
            assert answer.headers["connection"] == "close"
            assert clean(full)

    @pytest.mark.parametrize("after", [0, 100_000])
    def test_a_volume_that_fills_up_on_the_way(self, plain: Api, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
        real = uploads.PartFile._write

        def write(part: uploads.PartFile) -> None:
            if part.size > after:
                raise uploads._disk_problem(OSError(28, "No space left on device"))
            real(part)

        monkeypatch.setattr(uploads.PartFile, "_write", write)
        answer = plain.client.post("/datasets", content=os.urandom(3_000_000), headers=ZIP)
        refused(answer, 507, "store-full")
        assert clean(plain)


class TestForms:
    @pytest.mark.parametrize(
        ("content_type", "status", "code"),
        [
            ("application/json", 415, "unsupported-media-type"),
            ("text/plain", 415, "unsupported-media-type"),
            ("", 415, "unsupported-media-type"),
            ("multipart/form-data", 400, "malformed-request"),
            ("multipart/form-data; boundary=" + "b" * 5000, 400, "malformed-request"),
            ("multipart/form-data; boundary=b", 400, "malformed-request"),
        ],
    )
    def test_bodies_that_are_no_form(self, plain: Api, content_type: str, status: int, code: str) -> None:
        answer = plain.client.post("/datasets", content=b"no boundary here", headers={"Content-Type": content_type})
        refused(answer, status, code)
        assert clean(plain)

    @pytest.mark.parametrize(
        "part",
        [
            b'Content-Disposition: form-data; name="file"; filename="a.zip"\r\n\r\nPK\x03\x04',  # never closed
            b"Content-Type: text/plain\r\n\r\nno name\r\n--b--\r\n",
            b'Content-Disposition: attachment; name="file"\r\n\r\nx\r\n--b--\r\n',
            b'Content-Disposition: form-data; name="x"\r\n\r\n\xff\xfe\r\n--b--\r\n',
            b"X: " + b"y" * 100_000 + b"\r\n\r\nx\r\n--b--\r\n",
            b"".join(b"X-%d: y\r\n" % n for n in range(5000)) + b"\r\nx\r\n--b--\r\n",
        ],
    )
    def test_forms_that_are_broken(self, plain: Api, part: bytes) -> None:
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        answer = plain.client.post("/datasets", content=b"--b\r\n" + part, headers=headers)
        refused(answer, 400, "malformed-request")
        assert clean(plain)

    def test_a_huge_field(self, plain: Api) -> None:
        answer = plain.client.post(
            "/datasets", data={"note": "x" * 3_000_000}, files={"file": ("a.zip", coloured_zip())}
        )
        refused(answer, 413, "too-large")
        assert clean(plain)

    def test_thousands_of_fields(self, plain: Api) -> None:
        files = {"file": ("a.zip", coloured_zip())}
        answer = plain.client.post("/datasets", data={f"f{n}": "x" for n in range(5000)}, files=files)
        refused(answer, 400, "malformed-request")
        assert clean(plain)

    def test_two_files(self, plain: Api) -> None:
        files = [("file", ("a.zip", coloured_zip())), ("file", ("b.zip", coloured_zip()))]
        refused(plain.client.post("/datasets", files=files), 413, "too-large")
        assert clean(plain)

    def test_a_file_in_another_field(self, plain: Api) -> None:
        refused(plain.client.post("/datasets", files={"zip": ("a.zip", coloured_zip())}), 422, "invalid-request")
        assert clean(plain)

    def test_no_file_and_unknown_fields(self, plain: Api) -> None:
        refused(plain.client.post("/datasets", data={"x": "1"}), 422, "invalid-request")
        refused(
            plain.client.post("/datasets", files={"file": ("a.zip", coloured_zip())}, data={"x": "1"}),
            422,
            "invalid-request",
        )
        assert clean(plain)

    def test_headers_without_end(self, plain: Api) -> None:
        with talk(plain) as line:
            line.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 200_000)
            status, _ = hear(line)
        assert status in (400, 431)

    def test_a_wrong_content_length(self, plain: Api) -> None:
        with talk(plain) as line:
            line.sendall(head(plain, "Content-Length: -5"))
            status, _ = hear(line)
        assert status == 400


def talk(api: Api) -> socket.socket:
    parts = urlsplit(api.url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20)


def head(api: Api, *lines: str) -> bytes:
    text = [f"POST /datasets HTTP/1.1\r\nHost: {urlsplit(api.url).netloc}", "Content-Type: application/zip", *lines]
    return ("\r\n".join(text) + "\r\n\r\n").encode()


def trickle(line: socket.socket, piece: bytes, times: int) -> None:
    """Send a piece ten times a second, until it is hung up on."""
    for _ in range(times):
        try:
            line.sendall(piece)
        except OSError:
            return
        threading.Event().wait(0.1)


def hear(line: socket.socket) -> tuple[int, str]:
    received = b""
    try:
        while chunk := line.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    text = received.decode(errors="replace")
    return int(text.split(" ", 2)[1]), text
