"""Secrets of the operator are in no log, no answer and no file, whatever the service went through."""

from __future__ import annotations

import json

import httpx
import pytest
import redis

from tests.security.conftest import KEY, SECRETS, Target
from tests.security.corpus.case import PREDICT
from tests.security.leaks import files_below, leaks
from tests.support.api import archive, png
from tests.support.service import wait_for

PUBLIC = ("/readyz", "/metrics", "/livez", "/problems", "/docs", "/", "/openapi.json")
NAMED = {"zebrafinch": "red", "bowerbird": "green"}
FILE, MODEL = "of-the-aviary.zip", "songbirds of the aviary"
WRONG = "npt_" + "0" * 26 + "_" + "SecretOfAWrongKey" * 2


def test_a_whole_life_of_the_service_tells_no_secret(target: Target) -> None:
    """Tuning, keys made and used, refusals, a Redis that goes away: then every log line and every file is read."""
    client = target.client
    made = client.post("/keys", json={"scopes": ["predict"], "label": "of the test"})
    assert made.status_code == 201, made.text
    secret = made.json()["key"]
    answers = [
        client.get(path).text for path in ("/livez", "/readyz", "/metrics", "/backbones", "/keys", "/openapi.json")
    ]
    for header in ({"X-API-Key": WRONG}, {"Authorization": f"Bearer {WRONG}"}, {"X-API-Key": secret}):
        answers.append(httpx.get(f"{target.service.url}/datasets", headers=header).text)
    answers.append(httpx.get(f"{target.service.url}/jobs?api_key={WRONG}&key={KEY}").text)
    answers.append(client.post(PREDICT, content=b"no picture", headers={"Content-Type": "image/png"}).text)

    pictures = {f"{label}/{n}.png": png(colour, seed=7 + n) for label, colour in NAMED.items() for n in range(4)}
    zipped = archive(pictures)
    config = json.dumps({"epochs": 1, "views": 1})
    sent = {"dataset": (FILE, zipped)}
    job = client.post("/tune", files=sent, data={"config": config, "name": MODEL})
    assert job.status_code == 202, job.text

    def ended() -> dict[str, str] | None:
        found = client.get(f"/jobs/{job.json()['id']}").json()
        return found if found["status"] in ("succeeded", "failed") else None

    record = wait_for("the job to end", ended, 240)
    assert record["status"] == "succeeded"
    assert client.get("/metrics").status_code == 200
    private = (*(record[one] for one in ("id", "dataset_id", "model_id")), made.json()["id"], FILE, MODEL, *NAMED)
    assert leaks(private, {path: httpx.get(f"{target.service.url}{path}").text for path in PUBLIC}) == []
    held = in_redis(target)
    assert any(record["id"].encode() in content for content in held.values()), "what is read here is the service's"
    assert leaks((*SECRETS, secret, WRONG), held) == []

    target.redis.kill()
    # The metrics tell of it in a line for debugging.
    answers += [client.get(path).text for path in ("/readyz", "/metrics", "/jobs", "/models")]
    answers.append(client.post("/tune", files=sent, data={"config": config}).text)
    target.redis.start()
    wait_for("the service to be ready again", lambda: client.get("/readyz").status_code == 200, 120)
    for kind in ("jobs", "models", "datasets"):  # a job still makes a model, and a model needs its data set
        for one in client.get(f"/{kind}").json()["items"]:
            wait_for(f"nothing to need {one['id']}", lambda kind=kind, one=one: _gone(client, kind, one["id"]), 120)

    log = target.service.log.read_text(errors="replace")
    assert '"event": "request"' in log, "the log that is read here is the service's"
    assert '"level": "debug"' in log
    told = {"the log": log, **{f"answer {number}": text for number, text in enumerate(answers)}}
    assert leaks((*SECRETS, secret, WRONG), told | files_below(target.service.data)) == []


def in_redis(target: Target) -> dict[str, bytes]:
    """Every key and what it holds."""
    password = target.redis.password
    with redis.Redis(unix_socket_path=str(target.redis.socket), password=password) as client:
        client.config_set("rdbcompression", "no")  # a dump is what a server would save
        return {repr(key): key + (client.dump(key) or b"") for key in client.scan_iter()}


def _gone(client: httpx.Client, kind: str, name: str) -> bool:
    if kind == "jobs":
        return client.get(f"/jobs/{name}").json()["status"] in ("succeeded", "failed", "cancelled")
    return client.delete(f"/{kind}/{name}").status_code in (204, 404)


def test_command_lines_of_its_processes_hold_none(target: Target) -> None:
    """They can be read by every user of the machine, unlike environments."""
    commands = target.service.processes()
    assert len(commands) >= 3
    assert leaks(SECRETS, {str(pid): command for pid, command in commands.items()}) == []


@pytest.mark.parametrize("path", PUBLIC)
def test_what_needs_no_key_tells_nothing_private(target: Target, path: str) -> None:
    text = httpx.get(f"{target.service.url}{path}").text
    assert leaks((*SECRETS, str(target.service.data), str(target.redis.socket)), {path: text}) == []
