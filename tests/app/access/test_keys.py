"""Keys in the store: made, found, revoked, by HTTP and by anybody else, with the door that shuts behind the first."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.access.keyring import Keyring
from app.access.records import ALL_SCOPES, KeyState, digest_of, id_in, new_secret
from app.access.repository import KeyRepository, Wanted
from app.auth import keyring_of
from app.main import create_app
from app.routes.tune import check_config
from app.settings import AppSettings
from npt_core.errors import ConfigError
from tests.support.api import Api, coloured_zip, running_api
from worker.errors import NotFoundError
from worker.ids import new_id
from worker.store.local import LocalStore

NOW = datetime(2030, 1, 1, tzinfo=UTC)
TUNE, PREDICT, ADMIN = Wanted(("tune",)), Wanted(("predict",)), Wanted(("admin",))


@pytest.fixture
def repository(tmp_path: Path) -> KeyRepository:
    return KeyRepository(LocalStore(tmp_path))


class TestRepository:
    def test_the_store_holds_hashes_never_keys(self, repository: KeyRepository, tmp_path: Path) -> None:
        record, secret = repository.create(Wanted(("predict", "tune"), label=" the camera "), by="me")
        assert (record.scopes, record.label, record.created_by) == (("tune", "predict"), "the camera", "me")
        assert id_in(secret) == record.id
        written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        assert secret.encode() not in written
        assert secret.split("_", 2)[2].encode() not in written
        assert hashlib.sha256(secret.encode()).hexdigest().encode() in written

    def test_revoking_ends_a_key_once_and_keeps_its_record(self, repository: KeyRepository) -> None:
        record, _ = repository.create(TUNE, by="me")
        assert repository.revoke(record.id, by="me")
        assert not repository.revoke(record.id, by="another")
        stored = repository.get(record.id)
        assert stored.end is not None
        assert (stored.end.revoked_by, stored.state(NOW)) == ("me", KeyState.REVOKED)

    @pytest.mark.parametrize("key_id", ["key_" + "0" * 26, "../../etc", "", "job_" + "0" * 26, "key_x"])
    def test_nobody_knows_an_unknown_key(self, repository: KeyRepository, key_id: str) -> None:
        with pytest.raises(NotFoundError):
            repository.get(key_id)
        with pytest.raises(NotFoundError):
            repository.revoke(key_id, by="me")

    def test_pages_are_newest_first_and_miss_nobody(self, repository: KeyRepository) -> None:
        made = [repository.create(TUNE, by="me")[0].id for _ in range(7)]
        repository.revoke(made[3], by="me")
        found, cursor = [], None
        while True:
            page = repository.list(limit=3, cursor=cursor)
            found += [key.record.id for key in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert found == made[::-1]

    def test_a_damaged_record_opens_nothing_and_hides_nothing(
        self, repository: KeyRepository, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        good, good_secret = repository.create(TUNE, by="me")
        bad, bad_secret = repository.create(TUNE, by="me")
        (tmp_path / "keys" / f"{bad.id}.json").write_text("{")
        assert [key.record.id for key in repository.list().items] == [good.id]
        keyring = Keyring([], repository)
        assert keyring.find(good_secret) is not None
        assert keyring.find(bad_secret) is None
        (tmp_path / "keys" / f"{good.id}.revoked.json").write_text("{")  # nobody can say that it is not revoked
        keyring.refresh()
        assert keyring.find(good_secret) is None
        assert "key cannot be read" in caplog.text

    @pytest.mark.parametrize(
        ("wanted", "names"),
        [
            ({"scopes": ()}, "scopes"),
            ({"scopes": ("root",)}, "scopes"),
            ({"scopes": ("tune",), "label": "x" * 101}, "label"),
            ({"scopes": ("tune",), "label": "a\nb"}, "label"),
            ({"scopes": ("tune",), "expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, "expires_at"),
            ({"scopes": ("tune",), "expires_at": datetime(2999, 1, 1)}, "expires_at"),  # noqa: DTZ001
            ({"scopes": ("tune",), "requests_per_minute": -1}, "requests_per_minute"),
            ({"scopes": ("tune",), "burst": 10**9, "upload_bytes_per_day": -5}, "burst upload_bytes_per_day"),
        ],
    )
    def test_what_cannot_be_is_named(self, wanted: dict[str, Any], names: str) -> None:
        with pytest.raises(ConfigError) as caught:
            Wanted(**wanted)
        assert [fault.path for fault in caught.value.faults] == names.split()


class TestKeyring:
    def test_finds_each_key_with_what_it_may(self, repository: KeyRepository) -> None:
        record, secret = repository.create(Wanted(("tune",), requests_per_minute=5, upload_bytes_per_day=7), by="me")
        _, admin = repository.create(ADMIN, by="me")
        keyring = Keyring(["a-key-of-the-settings"], repository)
        caller = keyring.find(secret)
        assert caller is not None
        assert (caller.id, caller.scopes) == (record.id, frozenset({"tune"}))
        assert (caller.requests_per_minute, caller.burst, caller.upload_bytes_per_day) == (5, None, 7)
        found = keyring.find(admin), keyring.find("a-key-of-the-settings")
        assert [caller.scopes for caller in found if caller] == [ALL_SCOPES, ALL_SCOPES]

    def test_a_key_ends_when_it_was_to(self, repository: KeyRepository) -> None:
        now = [NOW]
        _, secret = repository.create(Wanted(("tune",), expires_at=NOW), by="me")
        keyring = Keyring([], repository, now=lambda: now[0])
        assert keyring.find(secret) is None
        assert not keyring.has_usable
        now[0] = NOW - timedelta(microseconds=1)
        assert keyring.find(secret) is not None
        assert keyring.has_usable

    def test_the_door_shuts_with_the_first_key_and_stays_shut(self, repository: KeyRepository, tmp_path: Path) -> None:
        keyring = Keyring([], repository)
        assert keyring.is_open
        record, _ = repository.create(PREDICT, by="me")
        assert keyring.is_open  # until it looks
        keyring.refresh()
        assert not keyring.is_open
        repository.revoke(record.id, by="me")
        keyring.refresh()
        assert not keyring.is_open
        assert not Keyring([], repository).is_open
        for file in (tmp_path / "keys").iterdir():
            file.unlink()
        keyring.refresh()
        assert not keyring.is_open

    def test_a_door_that_requires_a_key_is_shut_before_there_is_one(self, repository: KeyRepository) -> None:
        keyring = Keyring([], repository, closed=True)
        assert not keyring.is_open
        assert not keyring.has_usable
        _, secret = repository.create(ADMIN, by="command")
        assert keyring.find(secret) is None  # until it looks
        keyring.refresh()
        assert keyring.find(secret) is not None
        assert not keyring.is_open

    def test_notices_by_itself_what_others_make_and_revoke(self, repository: KeyRepository) -> None:
        keyring = Keyring([], repository)
        keyring.start()
        try:
            record, secret = repository.create(TUNE, by="another process")
            assert soon(lambda: keyring.find(secret) is not None)
            repository.revoke(record.id, by="another process")
            assert soon(lambda: keyring.find(secret) is None)
        finally:
            keyring.stop()

    def test_goes_on_with_what_it_knows_when_the_folder_cannot_be_read(
        self, repository: KeyRepository, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        _, secret = repository.create(TUNE, by="me")
        keyring = Keyring([], repository)
        (tmp_path / "keys").rename(tmp_path / "elsewhere")
        os.symlink("keys", tmp_path / "keys")  # a loop: every look fails, whoever looks
        keyring.start()
        try:
            assert soon(lambda: "keys of the store cannot be read" in caplog.text)
            assert keyring.find(secret) is not None
            (tmp_path / "keys").unlink()
            (tmp_path / "elsewhere").rename(tmp_path / "keys")
            _, later = repository.create(TUNE, by="me")
            assert soon(lambda: keyring.find(later) is not None)
        finally:
            keyring.stop()

    def test_keys_that_cannot_be_read_at_the_start_are_told(
        self, make_settings: Callable[..., AppSettings], tmp_path: Path
    ) -> None:
        os.symlink("keys", tmp_path / "keys")
        with pytest.raises(ConfigError, match="cannot be read"):
            keyring_of(make_settings(data_dir=tmp_path))

    @given(text=st.text(max_size=80) | st.from_regex(r"npt_[0-9a-z]{26}_[A-Za-z0-9_-]{43}", fullmatch=True))
    def test_no_other_text_is_a_key(self, tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
        repository = KeyRepository(LocalStore(tmp_path_factory.getbasetemp() / "one-key"))
        if not repository.names():
            repository.create(TUNE, by="me")
        assert Keyring([], repository).find(text) is None

    def test_the_right_id_with_the_wrong_rest_is_no_key(self, repository: KeyRepository) -> None:
        record, secret = repository.create(TUNE, by="me")
        keyring = Keyring([], repository)
        for wrong in (new_secret(record.id), secret + "x", secret.upper(), record.digest, f"sha256:{record.digest}"):
            assert keyring.find(wrong) is None
        assert keyring.find(new_secret(new_id("key"))) is None
        assert digest_of(secret) == record.digest


class TestStart:
    def test_a_key_of_the_store_opens_a_public_address(self, make_settings: Callable[..., AppSettings]) -> None:
        settings = make_settings(host="0.0.0.0")
        repository = KeyRepository(LocalStore(settings.data_dir))
        with pytest.raises(ConfigError, match="app keys create"):
            create_app(settings)
        record, _ = repository.create(ADMIN, by="command")
        create_app(settings)
        repository.revoke(record.id, by="command")
        with pytest.raises(ConfigError, match="there is no API key"):
            create_app(settings)


@pytest.fixture
def api(make_settings: Callable[..., AppSettings]) -> Iterator[Api]:
    """A server of which no key was ever made."""
    with running_api(make_settings(backbone="demo")) as running:
        yield running


class TestHTTP:
    def test_a_server_that_requires_a_key_starts_without_one_and_answers_nobody(
        self, make_settings: Callable[..., AppSettings], caplog: pytest.LogCaptureFixture
    ) -> None:
        settings = make_settings(host="0.0.0.0", require_key=True)
        with running_api(settings) as api:
            assert "no API key yet" in caplog.text
            assert api.client.get("/livez").status_code == 200
            for method, path in (("GET", "/jobs"), ("GET", "/models"), ("POST", "/keys"), ("POST", "/tune")):
                assert api.client.request(method, path).status_code == 401, path
            _, secret = KeyRepository(LocalStore(settings.data_dir)).create(ADMIN, by="another process")
            headers = {"Authorization": f"Bearer {secret}"}
            assert soon(lambda: api.client.get("/jobs", headers=headers).status_code == 200)
            assert api.client.get("/jobs").status_code == 401
        assert secret not in caplog.text

    def test_a_key_from_its_making_to_its_end(self, api: Api, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        refused = api.client.post("/keys", json={"scopes": ["predict"]})
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
        assert api.client.get("/jobs").status_code == 200  # open still

        made = api.client.post("/keys", json={"scopes": ["admin"], "label": "first"})
        assert made.status_code == 201, made.text
        admin = made.json()
        assert admin["created_by"] == "local"
        assert made.headers["location"] == f"/keys/{admin['id']}"
        assert made.headers["cache-control"] == "no-store"
        assert api.client.get("/jobs").status_code == 401  # shut, at once

        api.client.headers["Authorization"] = f"Bearer {admin['key']}"
        wanted = {"scopes": ["predict", "tune"], "label": "camera", "expires_at": "2999-01-01T00:00:00Z", "burst": 9}
        camera = api.client.post("/v1/keys", json=wanted | {"requests_per_minute": 60}).json()
        assert camera["scopes"] == ["tune", "predict"]
        assert (camera["created_by"], camera["burst"], camera["upload_bytes_per_day"]) == (admin["id"], 9, None)
        listed = api.client.get("/keys").json()["items"]
        assert [(key["id"], key["state"]) for key in listed] == [(camera["id"], "active"), (admin["id"], "active")]
        assert not any("key" in key or "digest" in key for key in listed)
        as_camera = {"Authorization": f"Bearer {camera['key']}"}
        assert api.client.get("/jobs", headers=as_camera).status_code == 200

        assert api.client.delete(f"/keys/{camera['id']}").status_code == 204
        assert api.client.get("/jobs", headers=as_camera).status_code == 401  # at once
        assert api.client.delete(f"/keys/{camera['id']}").status_code == 204
        ended = api.client.get(f"/keys/{camera['id']}").json()
        assert (ended["state"], ended["revoked_by"]) == ("revoked", admin["id"])
        assert camera["key"] not in caplog.text
        assert admin["key"] not in caplog.text

    def test_another_process_is_noticed(self, api: Api) -> None:
        repository = KeyRepository(LocalStore(api.settings.data_dir))
        record, secret = repository.create(ADMIN, by="command")
        assert soon(lambda: api.client.get("/jobs").status_code == 401)
        headers = {"X-API-Key": secret}
        assert api.client.get("/jobs", headers=headers).status_code == 200
        repository.revoke(record.id, by="command")
        assert soon(lambda: api.client.get("/jobs", headers=headers).status_code == 401)

    def test_any_host_will_do_once_a_key_is_needed(self, api: Api) -> None:
        elsewhere = {"Host": "classifier.example.org"}
        assert api.client.get("/livez", headers=elsewhere).status_code == 403
        api.client.post("/keys", json={"scopes": ["admin"]})
        assert api.client.get("/livez", headers=elsewhere).status_code == 200

    @pytest.mark.parametrize(
        ("body", "path"),
        [
            ({}, "scopes"),
            ({"scopes": []}, "scopes"),
            ({"scopes": ["root"]}, "scopes.0"),
            ({"scopes": ["tune"], "key": "mine-of-enough-letters"}, "key"),
            ({"scopes": ["admin"], "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
            ({"scopes": ["admin"], "expires_at": "2999-01-01T00:00:00"}, "expires_at"),
            ({"scopes": ["admin"], "requests_per_minute": -1}, "requests_per_minute"),
            ({"scopes": ["admin"], "label": "\u0007"}, "label"),
        ],
    )
    def test_what_cannot_be_is_named(self, plain: Api, body: dict[str, Any], path: str) -> None:
        answer = plain.client.post("/keys", json=body)
        assert answer.status_code == 422, answer.text
        assert answer.json()["code"] == "invalid-request"
        assert [fault["path"] for fault in answer.json()["errors"]] == [path]
        assert plain.client.get("/keys").json()["items"] == []

    def test_a_large_body_is_not_read_to_its_end(self, plain: Api) -> None:
        body = json.dumps({"scopes": ["admin"], "label": "x" * 100_000})
        for content in (body.encode(), iter([body[:70_000].encode(), body[70_000:].encode()])):
            answer = plain.client.post("/keys", content=content, headers={"Content-Type": "application/json"})
            assert (answer.status_code, answer.json()["code"]) == (413, "too-large")


def audited(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    lines = [json.loads(record.message) for record in caplog.records if record.name == "audit"]
    caplog.clear()
    return lines


def test_each_change_is_one_line_with_who_and_what(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    check_config({}, ("demo",))  # brings torch, which takes a busy machine longer than a client waits
    archive = coloured_zip()
    who = "local"

    def changes(action: str | None, method: str, path: str, object_id: str = "", **request: Any) -> str:
        """Send a request; the id of the one thing that it says to have changed, or nothing."""
        answer = api.client.request(method, path, **request)
        lines = audited(caplog)
        assert [one["action"] for one in lines] == ([action] if action else []), answer.text
        for one in lines:
            assert (one["event"], one["key"], one["request"]) == ("change", who, answer.headers["x-request-id"])
            assert one["object"] == (object_id or answer.json()["id"])
            object_id = one["object"]
        if path == "/keys":
            api.client.headers["X-API-Key"] = answer.json()["key"]
        return object_id

    who = changes("key.create", "POST", "/keys", json={"scopes": ["admin"]})
    who = key = changes("key.create", "POST", "/keys", json={"scopes": ["tune", "admin"]})
    dataset = changes("dataset.create", "POST", "/datasets", files={"file": ("a.zip", archive)})
    changes(None, "POST", "/datasets", files={"file": ("a.zip", archive)})  # known already
    once = {"data": {"dataset_id": dataset}, "headers": {"Idempotency-Key": "k"}}
    job = changes("job.start", "POST", "/tune", **once)
    changes(None, "POST", "/tune", **once)  # replayed
    changes(None, "DELETE", f"/datasets/{dataset}")  # refused: a job needs it
    changes("job.cancel", "POST", f"/jobs/{job}/cancel", job)
    changes(None, "POST", f"/jobs/{job}/cancel")  # it has ended
    changes("dataset.delete", "DELETE", f"/datasets/{dataset}", dataset)
    changes("key.revoke", "DELETE", f"/keys/{key}", key)
    assert api.client.get("/jobs").status_code == 401


def soon(probe: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    """Whether `probe` becomes true; a second is promised, a busy machine gets more."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if probe():
            return True
        threading.Event().wait(0.02)
    return False
