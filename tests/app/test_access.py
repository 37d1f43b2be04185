"""Keys of the settings, Host, Origin: who may call. Which key opens which route: access/test_routes.py."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from app.access.keyring import Keyring
from app.access.repository import KeyRepository
from app.auth import SiteGuard, keyring_of
from app.main import create_app
from app.settings import AppSettings
from npt_core.errors import ConfigError
from tests.support.api import Api, coloured_zip, running_api
from worker.store.local import LocalStore

KEY, OTHER = "a-key-of-enough-letters", "another-key-of-enough-letters"


@pytest.fixture(scope="module")
def guarded(make_settings: Callable[..., AppSettings]) -> Iterator[Api]:
    """A server with two keys, one of them configured by its hash."""
    keys = (KEY, "sha256:" + hashlib.sha256(OTHER.encode()).hexdigest())
    with running_api(make_settings(api_keys=keys)) as running:
        yield running


class TestKeys:
    @pytest.mark.parametrize("key", [KEY, OTHER])
    def test_both_headers_are_accepted(self, guarded: Api, key: str) -> None:
        assert guarded.client.get("/jobs", headers={"Authorization": f"Bearer {key}"}).status_code == 200
        assert guarded.client.get("/jobs", headers={"Authorization": f"bearer {key}"}).status_code == 200
        assert guarded.client.get("/jobs", headers={"X-API-Key": key}).status_code == 200

    @pytest.mark.parametrize(
        "headers",
        [
            {"Authorization": "Bearer wrong-but-long-enough-key"},
            {"Authorization": f"Basic {KEY}"},
            {"Authorization": KEY},
            {"X-API-Key": KEY[:-1]},
            {"X-API-Key": ""},
            {"X-API-Key": "sha256:" + hashlib.sha256(OTHER.encode()).hexdigest()},
            {"X-API-Key": hashlib.sha256(OTHER.encode()).hexdigest()},
        ],
    )
    def test_anything_else_is_refused(self, guarded: Api, headers: dict[str, str]) -> None:
        assert guarded.client.get("/jobs", headers=headers).status_code == 401

    def test_bytes_that_are_no_text_are_refused(self, guarded: Api) -> None:
        answer = guarded.client.get("/jobs", headers=[(b"X-API-Key", b"\xff\xfe" * 12)])
        assert answer.status_code == 401

    def test_a_key_in_the_query_is_no_key(self, guarded: Api) -> None:
        assert guarded.client.get("/jobs", params={"api_key": KEY, "key": KEY}).status_code == 401

    def test_a_large_upload_without_a_key_gets_its_answer(self, guarded: Api) -> None:
        answer = guarded.client.post("/datasets", content=b"x" * 8_000_000, headers={"Content-Type": "application/zip"})
        assert answer.status_code == 401
        assert guarded.parts() == []

    def test_any_name_will_do_where_a_key_is_needed(self, guarded: Api) -> None:
        assert guarded.client.get("/livez", headers={"Host": "classifier.example.org"}).status_code == 200


class TestConfiguration:
    def test_no_key_on_an_address_others_can_reach(self, make_settings: Callable[..., AppSettings]) -> None:
        for host in ("0.0.0.0", "::", "192.168.1.7", "example.org"):
            with pytest.raises(ConfigError, match="NPT_API_KEYS"):
                create_app(make_settings(host=host))
        for host in ("127.0.0.1", "::1", "localhost", "127.1.2.3"):
            create_app(make_settings(host=host))

    def test_a_key_opens_the_address(self, make_settings: Callable[..., AppSettings]) -> None:
        create_app(make_settings(host="0.0.0.0", api_keys=KEY))

    @pytest.mark.parametrize("entry", ["short", "with a space in it", "sha256:abc", "ümläüte-sind-kein-ascii"])
    def test_unusable_entries_are_named_by_number_never_by_content(self, entry: str, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="API key 2") as error:
            Keyring([KEY, entry], KeyRepository(LocalStore(tmp_path)))
        assert entry not in error.value.message

    def test_a_file_of_keys(self, make_settings: Callable[..., AppSettings], tmp_path: Path) -> None:
        file = tmp_path / "keys"
        file.write_text(f"# of the team\n{KEY}\n\n{OTHER}  # of the pipeline\n")
        keyring = keyring_of(make_settings(host="0.0.0.0", api_keys_file=file))
        assert keyring.find(KEY)
        assert keyring.find(OTHER)
        assert keyring.find("# of the team") is None

    def test_a_file_without_a_key_opens_nothing(
        self, make_settings: Callable[..., AppSettings], tmp_path: Path
    ) -> None:
        file = tmp_path / "keys"
        file.write_text("# none yet\n")
        with pytest.raises(ConfigError, match="holds no key"):
            keyring_of(make_settings(api_keys_file=file))

    def test_a_hash_inside_a_key_begins_no_comment(
        self, make_settings: Callable[..., AppSettings], tmp_path: Path
    ) -> None:
        file = tmp_path / "keys"
        file.write_text(f"{KEY}#more # of the team\n")
        keyring = keyring_of(make_settings(api_keys_file=file))
        assert keyring.find(f"{KEY}#more")
        assert keyring.find(KEY) is None

    def test_the_address_it_listens_on_is_one_of_its_names(self, make_settings: Callable[..., AppSettings]) -> None:
        settings = make_settings(host="192.168.1.7", api_keys=KEY, allowed_hosts="npt.example")
        guard = SiteGuard(create_app(make_settings()), settings, is_open=lambda: False)
        asked = Headers({"host": "192.168.1.7:8000"})
        assert guard._refusal("GET", asked) is None
        assert guard._refusal("GET", Headers({"host": "evil.example"})) is not None

    def test_a_file_that_is_not_there(self, make_settings: Callable[..., AppSettings], tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="NPT_API_KEYS_FILE"):
            keyring_of(make_settings(api_keys_file=tmp_path / "none"))

    def test_the_environment_is_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NPT_API_KEYS", f"{KEY}, {OTHER}")
        monkeypatch.setenv("NPT_ALLOWED_HOSTS", "a.example,b.example")
        monkeypatch.setenv("NPT_PORT", "8123")
        settings = AppSettings()
        assert settings.key_entries() == (KEY, OTHER)
        assert settings.allowed_hosts == ("a.example", "b.example")
        assert settings.url == "http://127.0.0.1:8123"
        assert KEY not in repr(settings)

    @given(text=st.text(max_size=40))
    def test_only_the_key_itself_is_found(self, tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
        keyring = Keyring([KEY], KeyRepository(LocalStore(tmp_path_factory.getbasetemp() / "no-keys")))
        assert (keyring.find(text) is not None) == (text == KEY)


class TestSites:
    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "LOCALHOST:9", "[::1]:8000"])
    def test_names_of_this_machine(self, plain: Api, host: str) -> None:
        assert plain.client.get("/livez", headers={"Host": host}).status_code == 200

    @pytest.mark.parametrize(
        "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "10.0.0.1"]
    )
    @pytest.mark.parametrize("path", ["/livez", "/jobs", "/", "/docs", "/nothing"])
    def test_other_names_are_refused(self, plain: Api, host: str, path: str) -> None:
        answer = plain.client.get(path, headers={"Host": host})
        assert answer.status_code == 403
        assert answer.json()["code"] == "forbidden-host"
        assert answer.headers["content-type"] == "application/problem+json"

    @pytest.mark.parametrize("host", ["", "a b", "localhost/../", "user@localhost", "localhost:x", "<b>"])
    def test_no_name_at_all(self, plain: Api, host: str) -> None:
        assert plain.client.get("/livez", headers={"Host": host}).status_code == 400

    @pytest.mark.parametrize(
        "origin",
        ["http://evil.example", "null", "http://localhost.evil.example", "file://", "https://127.0.0.1:1", "x"],
    )
    @pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
    def test_pages_of_other_sites_may_not_call(self, plain: Api, origin: str, method: str) -> None:
        answer = plain.client.request(method, "/jobs", headers={"Origin": origin})
        assert answer.status_code == 403
        assert answer.json()["code"] == "forbidden-origin"
        assert "access-control-allow-origin" not in answer.headers

    def test_its_own_pages_may(self, plain: Api) -> None:
        assert plain.client.get("/jobs", headers={"Origin": plain.url}).status_code == 200

    @pytest.mark.parametrize(
        ("site", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", 422), ("none", 422)]
    )
    def test_a_form_of_another_site_without_origin(self, plain: Api, site: str, status: int) -> None:
        answer = plain.client.post("/predict", files={"images": ("a", b"x")}, headers={"Sec-Fetch-Site": site})
        assert answer.status_code == status

    def test_a_link_from_another_site_may_be_followed(self, plain: Api) -> None:
        assert plain.client.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200

    def test_a_refused_post_changes_nothing(self, plain: Api) -> None:
        before = len(plain.client.get("/datasets").json()["items"])
        files = {"file": ("a.zip", coloured_zip(4, first_seed=900))}
        assert plain.client.post("/datasets", files=files, headers={"Origin": "http://evil.example"}).status_code == 403
        assert len(plain.client.get("/datasets").json()["items"]) == before
        assert plain.parts() == []

    def test_sites_the_operator_allows(self, make_settings: Callable[..., AppSettings]) -> None:
        settings = make_settings(allowed_origins="https://ui.example", allowed_hosts="npt.example")
        with running_api(settings) as running:
            headers = {"Origin": "https://ui.example", "Host": "npt.example"}
            answer = running.client.get("/jobs", headers=headers)
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == "https://ui.example"
            preflight = running.client.options("/tune", headers=headers | {"Access-Control-Request-Method": "POST"})
            assert preflight.status_code == 200
            assert running.client.get("/jobs", headers=headers | {"Origin": "https://x.example"}).status_code == 403

    @given(st.text(max_size=60))
    def test_no_origin_is_taken_for_ours_by_accident(self, text: str) -> None:
        guard = SiteGuard(lambda *_: None, AppSettings(), is_open=lambda: True)  # type: ignore[arg-type,return-value]
        refused = guard._origin_refusal("POST", httpx.Headers([(b"origin", text.encode())]), "127.0.0.1", "8000")
        assert (refused is None) == (text.lower() in ("http://127.0.0.1:8000", "https://127.0.0.1:8000"))
