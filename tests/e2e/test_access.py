"""Keys from the command line to the job queue, against a real service with its worker and its broker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.service import ROOT, running_service, wait_for

QUICK = json.dumps({"epochs": 2, "views": 1})


def keys(data: Path, *arguments: str) -> str:
    """`python -m app keys`, as an operator types it beside the running service; what it prints."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("NPT_")} | {"NPT_DATA_DIR": str(data)}
    argv = [sys.executable, "-m", "app", "keys", *arguments]
    return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
def test_keys_scopes_limits_turns_and_the_log(tmp_path: Path, digits: bytes) -> None:
    data = tmp_path / "data"
    with running_service(data, NPT_LOG_JSON="true") as service:

        def caller(*arguments: str) -> httpx.Client:
            secrets.append(keys(data, "create", *arguments))
            return httpx.Client(base_url=service.url, timeout=60, headers={"Authorization": f"Bearer {secrets[-1]}"})

        secrets: list[str] = []
        assert service.client.get("/jobs").status_code == 200
        with (
            caller("--scope", "tune", "--label", "many") as many,
            caller("--scope", "tune", "--scope", "predict", "--label", "one") as one,
            caller("--scope", "predict", "--requests-per-minute", "1", "--burst", "2") as slow,
        ):
            wait_for("the service to ask for a key", lambda: service.client.get("/jobs").status_code == 401, 20)
            wait_for("the last key to be known", lambda: slow.get("/models").status_code != 401, 20)

            # Scopes and rates.
            assert many.post("/embed", data={"texts": '["x"]'}).status_code == 403
            embedded = one.post("/embed", data={"texts": '["a red circle"]'})
            assert embedded.status_code == 200, embedded.text
            codes = [slow.get("/models").status_code for _ in range(3)]
            assert codes[-1] == 429

            # A key with many jobs does not keep another one's waiting.
            dataset = one.post("/datasets?audit=false", files={"file": ("digits.zip", digits)}).json()["id"]
            body = {"dataset_id": dataset, "config": QUICK}
            ours = [many.post("/tune", data=body).json() for _ in range(5)]
            theirs = one.post("/tune", data=body).json()
            assert theirs["queue_position"] in (0, 1, None)  # the first may not have started yet
            ids = [job["id"] for job in (*ours, theirs)]

            def ended() -> list[dict[str, str]]:
                jobs = [one.get(f"/jobs/{job_id}").json() for job_id in ids]
                return jobs if all(job["status"] == "succeeded" for job in jobs) else []

            jobs = wait_for("every job to succeed", ended, 240)
            *started, their_start = [job["started_at"] for job in jobs]
            assert started == sorted(started)
            assert sum(start < their_start for start in started) <= 2  # what ran already, and one turn
            assert jobs[0]["queue_position"] is None

        log = service.log.read_text()
        changes = [json.loads(line) for line in log.splitlines() if '"logger": "audit"' in line]
        actions = [change["action"] for change in changes]
        assert actions.count("job.start") == actions.count("model.create") == len(ids)
        assert actions.count("dataset.create") == 1
        assert {change["key"] for change in changes} <= {line.split()[0] for line in keys(data, "list").splitlines()}
        assert all(change["request"] for change in changes if change["action"] == "job.start")
        assert not any(secret in log for secret in secrets)
