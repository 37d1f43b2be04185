"""The nginx of docs/deploy.md in front of a real service: TLS, the outer name, large bodies, live events."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from tests.support.certificates import certificates
from tests.support.nginx import documented, needs_nginx, running_nginx
from tests.support.ports import free_port
from tests.support.service import ROOT, running_service

NAME, KEY = "classifier.example.org", "a-key-of-the-tests-for-nginx"
pytestmark = [pytest.mark.slow, needs_nginx]


@dataclass
class Outside:
    """The service as other machines see it."""

    port: int
    trust: ssl.SSLContext
    client: httpx.Client


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    folder = tmp_path_factory.mktemp("tls")
    ca, cert, key = certificates(folder / "certificates")
    trust, port = ssl.create_default_context(cafile=ca), free_port()
    with running_service(folder / "data", NPT_API_KEYS=KEY, NPT_ALLOWED_HOSTS=NAME) as service:
        here = {
            "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            "/etc/ssl/classifier/fullchain.pem": str(cert),
            "/etc/ssl/classifier/privkey.pem": str(key),
            "http://127.0.0.1:8000": service.url,
        }
        headers = {"Host": NAME, "Authorization": f"Bearer {KEY}"}
        with (
            running_nginx(folder, documented(here), port),
            httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=trust, headers=headers, timeout=60) as client,
        ):
            yield Outside(port, trust, client)


def test_answers_come_over_tls_alone(outside: Outside) -> None:
    assert outside.client.get("/backbones").status_code == 200
    assert httpx.get(f"http://127.0.0.1:{outside.port}/livez").status_code == 400
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"https://127.0.0.1:{outside.port}/livez")


def test_the_outer_name_reaches_the_service(outside: Outside) -> None:
    """By it the service tells its own page from other sites'."""
    made = {"Origin": f"https://{NAME}"}
    assert outside.client.post("/keys", json={"label": "page", "scopes": ["predict"]}, headers=made).status_code == 201
    for headers in ({"Origin": "https://elsewhere.example.org"}, {"Host": "elsewhere.example.org"}):
        answer = outside.client.post("/keys", json={"label": "page", "scopes": ["predict"]}, headers=headers)
        assert answer.status_code in (400, 403), answer.text
        assert answer.json()["code"] in ("forbidden-origin", "forbidden-host")


def test_a_large_body_is_judged_by_the_service_while_it_comes(outside: Outside) -> None:
    """Neither too large for nginx, nor collected by it first."""
    connection = http.client.HTTPSConnection("127.0.0.1", outside.port, context=outside.trust, timeout=60)
    connection.putrequest("POST", "/tune", skip_host=True)
    for name, value in {"Host": NAME, "Content-Type": "application/zip", "Content-Length": str(64 << 20)}.items():
        connection.putheader(name, value)
    connection.endheaders(b"P" * 100_000)  # and no more of it
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["code"]) == (401, "unauthorized")
    connection.close()


def test_a_job_is_followed_live(outside: Outside) -> None:
    """Its first progress is seen while it runs, and so is its end."""
    files = {"dataset": ("digits.zip", (ROOT / "examples" / "digits.zip").read_bytes(), "application/zip")}
    config = {"config": json.dumps({"method": "coop", "epochs": 10_000, "refit": False})}
    started = outside.client.post("/tune", files=files, data=config)
    assert started.status_code == 202, started.text
    job, seen = started.json()["id"], []
    with outside.client.stream("GET", f"/jobs/{job}/events", timeout=120) as stream:
        for line in stream.iter_lines():
            if line == "event: progress" and "progress" not in seen:
                assert outside.client.post(f"/jobs/{job}/cancel").status_code in (200, 202)
            if line.startswith("event: "):
                seen.append(line.removeprefix("event: "))
    assert seen[-1] == "end"
    assert outside.client.get(f"/jobs/{job}").json()["status"] == "cancelled"
