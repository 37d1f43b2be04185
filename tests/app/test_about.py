"""What the server says of itself: health, metrics, backbones, methods, models, pages, the OpenAPI document."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.backbones import Backbones
from app.embedded import backbone_trouble
from app.encoding import Loaded
from app.main import create_app
from app.routes.health import LOADING
from app.settings import AppSettings
from npt_core.clip.specs import BackboneSpec
from tests.support.api import Api, png, running_api, store_model
from tests.support.redis_server import RedisServer
from tests.support.service import wait_for

SNAPSHOT = Path(__file__).parent / "openapi.json"


class TestHealth:
    def test_alive_and_ready(self, plain: Api) -> None:
        assert plain.client.get("/livez").json() == {"status": "alive"}
        answer = plain.client.get("/readyz")
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["status"] == "ready"
        assert set(body["checks"]) == {"store", "redis", "state", "workers", "backbone"}
        assert body["checks"]["workers"]["ok"] is False  # none runs here, and it says so
        assert "wait" in body["checks"]["workers"]["detail"]

    def test_not_ready_without_redis_and_ready_again(self, make_settings: Callable[..., AppSettings]) -> None:
        with RedisServer() as server, running_api(make_settings(redis_url=server.url)) as running:
            assert running.client.get("/readyz").status_code == 200
            server.kill()
            answer = running.client.get("/readyz")
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
            assert answer.json()["checks"]["redis"]["ok"] is False
            assert running.client.get("/livez").status_code == 200
            assert running.client.get("/models").status_code == 200
            server.start()
            answer = running.client.get("/readyz")
            assert answer.status_code == 503  # Redis is back, and empty
            assert answer.json()["checks"]["redis"]["ok"] is True
            assert answer.json()["checks"]["state"]["ok"] is False
            running.services.reaper.run_once()
            assert running.client.get("/readyz").status_code == 200

    def test_not_ready_while_the_backbone_is_on_its_way(
        self, make_settings: Callable[..., AppSettings], towers: tuple[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        go_on = threading.Event()
        load = Backbones._load

        def slowly(self: Backbones, spec: BackboneSpec) -> Loaded:
            go_on.wait(30)
            return load(self, spec)

        monkeypatch.setattr(Backbones, "_load", slowly)
        with running_api(make_settings(backbone=towers[0], preload=True)) as running:
            answer = running.client.get("/readyz")
            assert answer.status_code == 503
            assert answer.json()["checks"]["backbone"]["ok"] is False
            go_on.set()
            for _ in range(300):
                if running.client.get("/readyz").status_code == 200:
                    break
                threading.Event().wait(0.1)
            assert running.client.get("/readyz").json()["checks"]["backbone"]["ok"] is True

    def test_a_backbone_that_cannot_be_loaded_is_told_without_its_reason(
        self, make_settings: Callable[..., AppSettings], tmp_path: Path
    ) -> None:
        with running_api(make_settings(backbone=f"local:mine=ViT-B-32@{tmp_path}/none.pt")) as running:
            fields = {"model": "zero-shot", "labels": '["a", "b"]'}
            assert not running.client.post("/predict", files={"images": png()}, data=fields).is_success
            answer = running.client.get("/readyz")
            assert answer.status_code == 200  # it was not to be loaded ahead, and what needs no backbone works
            assert answer.json()["checks"]["backbone"]["ok"] is False
            assert str(tmp_path) not in answer.text

    def test_not_ready_where_the_first_backbone_cannot_be_loaded_until_it_can(
        self, make_settings: Callable[..., AppSettings], towers: tuple[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.backbones.PRELOAD_AGAIN_S", 0.1)
        entry = towers[0].replace("local:tiny=", "local:late=")
        path = Path(entry.rpartition("@")[2])
        hidden = path.rename(path.with_suffix(".hidden"))
        try:
            with running_api(make_settings(backbone=entry, preload=True)) as running:
                wait_for("a failure", lambda: not running.client.get("/backbones").json()["backbones"][0]["available"])
                answer = wait_for("the end of loading", lambda: _unless_loading(running.client.get("/readyz")))
                assert answer.status_code == 503
                assert "first backbone cannot be loaded" in answer.json()["checks"]["backbone"]["detail"]
                assert str(path) not in answer.text
                assert backbone_trouble(answer.content) == answer.json()["checks"]["backbone"]["detail"]
                hidden.rename(path)
                wait_for("the service to try again", lambda: running.client.get("/readyz").status_code == 200)
        finally:
            if hidden.exists():
                hidden.rename(path)

    def test_nothing_private_is_told(self, plain: Api) -> None:
        for path in ("/livez", "/readyz", "/metrics"):
            text = plain.client.get(path).text
            assert str(plain.settings.data_dir) not in text
            assert plain.settings.redis_address not in text


def _unless_loading(answer: httpx.Response) -> httpx.Response | None:
    return None if answer.json()["checks"]["backbone"]["detail"] == LOADING else answer


class TestMetrics:
    def test_are_readable_and_prefixed(self, plain: Api) -> None:
        plain.client.get("/jobs")
        plain.client.get("/nothing/at/all")
        plain.client.request("BREW", "/jobs")
        answer = plain.client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        families = {family.name: family for family in text_string_to_metric_families(answer.text)}
        assert all(name.startswith("npt_") for name in families)
        requests = {tuple(s.labels.values()) for s in families["npt_http_requests"].samples}
        assert ("GET", "/jobs", "200") in requests
        assert ("GET", "(none)", "404") in requests
        assert any(labels[0] == "other" for labels in requests)
        assert {s.labels["status"] for s in families["npt_jobs"].samples} == {"queued", "running"}
        assert families["npt_store_free_bytes"].samples[0].value > 0

    def test_paths_are_templates(self, plain: Api) -> None:
        for number in range(20):
            plain.client.get(f"/v1/jobs/job_{number:026d}")
        text = plain.client.get("/metrics").text
        assert 'path="/jobs/{job_id}"' in text
        assert "job_00000" not in text

    def test_two_apps_in_one_process(self, make_settings: Callable[..., AppSettings]) -> None:
        first, second = create_app(make_settings()), create_app(make_settings())
        assert first.state.metrics.registry is not second.state.metrics.registry


class TestWhatThereIs:
    def test_backbones_before_and_after_loading(self, api: Api) -> None:
        before = api.client.get("/backbones").json()["backbones"]
        assert [(one["name"], one["default"]) for one in before] == [("tiny", True), ("other", False)]
        files = {"images": ("a.png", png())}
        api.client.post("/predict", files=files, data={"model": "zero-shot", "labels": '["a", "b"]'})
        tiny = api.client.get("/backbones").json()["backbones"][0]
        assert tiny["loaded"] is True
        assert tiny["d"] == 16
        assert str(Path(__file__).anchor + "tmp") not in json.dumps(tiny)

    def test_a_backbone_that_cannot_be_had(self, make_settings: Callable[..., AppSettings], tmp_path: Path) -> None:
        settings = make_settings(backbone=f"local:gone=ViT-B-32@{tmp_path / 'none.pt'}")
        with running_api(settings) as running:
            files = {"images": ("a.png", png())}
            answer = running.client.post("/predict", files=files, data={"model": "zero-shot", "labels": '["a", "b"]'})
            assert answer.status_code == 503, answer.text
            assert answer.json()["code"] == "backbone-unavailable"
            assert str(tmp_path) not in answer.text  # where the operator keeps things is nobody's business
            gone = running.client.get("/backbones").json()["backbones"][0]
            assert gone["loaded"] is gone["available"] is False
            assert "log" in gone["reason"]

    def test_methods_and_regularisers_with_schemas(self, api: Api) -> None:
        body = api.client.get("/methods").json()
        methods = {one["name"]: one for one in body["items"]}
        assert set(methods) == {
            "apt", "cocoop", "coop", "dpt", "kgcoop", "linear_probe", "maple", "prograd", "promptsrc", "tip_adapter",
            "upt", "vpt", "zero_shot",
        }  # fmt: skip
        assert {name for name, one in methods.items() if one["image_depends_on_classes"]} == {"dpt"}
        assert methods["coop"]["config_schema"]["properties"]["n_ctx"]["type"] == "integer"
        assert {"cpt", "none", "npt"} == {one["name"] for one in body["regularizers"]}
        assert "epochs" in body["config_schema"]["properties"]

    def test_models(self, api: Api, towers: tuple[str, str]) -> None:
        model = store_model(api.services, towers[0], name="<script>alert(1)</script>")
        listed = {one["id"]: one for one in api.client.get("/models").json()["items"]}
        assert listed[model]["name"] == "<script>alert(1)</script>"
        one = api.client.get(f"/models/{model}").json()
        assert one["id"] == model
        assert one["labels"] == ["red", "green", "blue"]
        assert one["manifest"]["method"] == "coop"
        assert one["size_bytes"] > 0
        report = api.client.get(f"/models/{model}/report")
        assert report.headers["content-type"] == "application/json"
        assert report.json()["metrics"]["tuned"]["accuracy"] == 1.0
        assert api.client.delete(f"/models/{model}").status_code == 204
        for path in ("", "/report"):
            assert api.client.get(f"/models/{model}{path}").status_code == 404

    def test_a_model_of_a_backbone_that_is_not_here(
        self, api: Api, make_settings: Callable[..., AppSettings], towers: tuple[str, str]
    ) -> None:
        with running_api(make_settings(backbone=towers[1])) as running:
            model = store_model(running.services, towers[0])
            answer = running.client.post("/predict", files={"images": ("a.png", png())}, data={"model": model})
            assert answer.status_code == 409
            assert answer.json()["code"] == "backbone-not-configured"

    def test_a_model_made_with_other_weights(
        self, make_settings: Callable[..., AppSettings], towers: tuple[str, str]
    ) -> None:
        impostor = towers[1].replace("local:other=", "local:tiny=")
        with running_api(make_settings(backbone=impostor)) as running:
            model = store_model(running.services, towers[0])
            answer = running.client.post("/predict", files={"images": ("a.png", png())}, data={"model": model})
            assert answer.status_code == 409
            assert answer.json()["code"] == "fingerprint-mismatch"


class TestPages:
    @pytest.mark.parametrize("path", ["/", "/docs"])
    def test_need_nothing_from_elsewhere(self, plain: Api, path: str) -> None:
        answer = plain.client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert not re.search(r"(src|href)\s*=\s*[\"'](https?:)?//", answer.text)
        assert "<script>" not in answer.text
        for file in re.findall(r'(?:src|href)="([^"]+)"', answer.text):
            assert plain.client.get(f"/{file}").status_code == 200, file

    def test_links_work(self, plain: Api) -> None:
        assert 'href="docs"' in plain.client.get("/").text

    def test_other_answers_may_run_nothing(self, plain: Api) -> None:
        headers = plain.client.get("/jobs").headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers or "python" not in headers["server"].lower()

    def test_a_request_id_is_kept_or_made(self, plain: Api) -> None:
        assert plain.client.get("/livez", headers={"X-Request-ID": "abc-12345"}).headers["x-request-id"] == "abc-12345"
        made = plain.client.get("/livez", headers={"X-Request-ID": "no good {}"}).headers["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{16}", made)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    schema = create_app(AppSettings()).openapi()
    found: dict[str, Any] = json.loads(json.dumps(schema | {"info": schema["info"] | {"version": "0"}}))
    return found


class TestDocument:
    def test_is_the_one_that_was_agreed(self, document: dict[str, Any]) -> None:
        """A difference is a change of the contract: look at it, then write it down with NPT_WRITE_SNAPSHOTS=1."""
        text = json.dumps(document, indent=1, sort_keys=True) + "\n"
        if os.environ.get("NPT_WRITE_SNAPSHOTS"):
            SNAPSHOT.write_text(text)
        assert json.loads(SNAPSHOT.read_text()) == document

    def test_nothing_of_v1_twice(self, document: dict[str, Any]) -> None:
        assert not any(path.startswith("/v1") for path in document["paths"])
        assert {"/tune", "/datasets", "/jobs/{job_id}/events", "/predict", "/models/{model_id}/report"} <= set(
            document["paths"]
        )


def test_the_app_is_imported_and_answers_without_torch() -> None:
    code = """
import asyncio, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "open_clip", "torchvision"):
            raise ImportError(f"{name} was imported")
sys.meta_path.insert(0, Refuse())
import app.main
from app.settings import AppSettings
app.main.create_app(AppSettings()).openapi()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
