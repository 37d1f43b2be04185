"""`python -m app gc` as an operator types it, beside a running server."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.settings import AppSettings
from tests.support.api import Api, coloured_zip, running_api
from tests.support.in_process import runner
from tests.support.service import ROOT

NOW = ("--older-than", "jobs=0.000001", "datasets=0.000001")


@pytest.fixture
def server(make_settings: Callable[..., AppSettings]) -> Iterator[Api]:
    with running_api(make_settings()) as running:
        yield running


def gc(server: Api, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("NPT_")} | {
        "NPT_DATA_DIR": str(server.settings.data_dir),
        "NPT_REDIS_URL": server.settings.redis_address,
        "NPT_REDIS_PREFIX": server.settings.redis_prefix,
        "NPT_PART_TTL_S": "0",
    }
    command = [sys.executable, "-m", "app", "gc", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def listed(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def tree(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_what_a_dry_run_lists_is_what_goes(server: Api) -> None:
    headers = {"Content-Type": "application/zip"}
    answer = server.client.post("/datasets", content=coloured_zip(), headers=headers, params={"audit": "false"})
    dataset = answer.json()["id"]
    job = server.services.start_job("sleep", {"steps": 1, "pause": 0})[0].id
    waiting = server.services.start_job("sleep", {})[0].id
    runner(server.services).run_next()
    part = server.services.store.part()
    part.write_bytes(b"12345")

    before = tree(server.settings.data_dir)
    planned = listed(gc(server, "--dry-run", "--json", *NOW))
    assert tree(server.settings.data_dir) == before
    found = {(one["kind"], one["id"]) for one in planned}
    assert found >= {("job", job), ("dataset", dataset), ("upload", f"uploads/{part.name}")}
    assert {one["kind"] for one in planned} == {"job", "dataset", "upload", "archive"}
    assert not any(one["removed"] for one in planned)
    assert server.client.get(f"/jobs/{job}").status_code == 200

    removed = listed(gc(server, "--json", *NOW))
    assert removed == [one | {"removed": True} for one in planned]
    assert server.client.get(f"/jobs/{job}").status_code == 404
    assert server.client.get(f"/datasets/{dataset}").status_code == 404
    assert [one["id"] for one in server.client.get("/jobs").json()["items"]] == [waiting]
    assert server.client.get("/jobs", params={"status": "succeeded"}).json()["items"] == []
    assert len(server.client.get("/models").json()["items"]) == 1
    assert listed(gc(server, "--json", *NOW)) == []


def test_it_says_what_it_did_in_words_and_in_the_log(server: Api) -> None:
    job = server.services.start_job("fail", {})[0].id
    runner(server.services).run_next()
    told = gc(server, "--dry-run", *NOW)
    assert told.stdout.startswith("job ")
    assert job in told.stdout
    assert "failed 0 days ago" in told.stdout
    assert "1 found" in told.stderr
    assert "would go" in told.stderr
    done = gc(server, *NOW)
    change = next(json.loads(line) for line in done.stderr.splitlines() if '"job.delete"' in line)
    assert (change["object"], change["key"]) == (job, "command")
    assert "Nothing may go." in gc(server, *NOW).stderr


@pytest.mark.parametrize("age", ["30", "jobs", "models=3", "jobs=-1", "jobs=x"])
def test_an_age_that_is_none_is_refused(server: Api, age: str) -> None:
    done = gc(server, "--older-than", age)
    assert done.returncode == 2
    assert "--older-than" in done.stderr
    assert "jobs=30" in done.stderr


def test_a_folder_that_is_not_there_is_no_empty_one(tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("NPT_")}
    command = [sys.executable, "-m", "app", "gc", "--dry-run"]
    missing = env | {"NPT_DATA_DIR": str(tmp_path / "nowhere"), "NPT_REDIS_URL": "redis://127.0.0.1:1"}
    done = subprocess.run(command, cwd=ROOT, env=missing, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert "NPT_DATA_DIR" in done.stderr
    assert not (tmp_path / "nowhere").exists()
