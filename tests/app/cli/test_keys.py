"""`python -m app keys`: without a server, without torch, and noticed by a server that runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from app.__main__ import main
from app.access.keyring import Keyring
from app.access.repository import KeyRepository
from app.cli.keys import expiry
from app.settings import AppSettings
from npt_core.errors import ConfigError
from tests.support.api import running_api
from tests.support.service import ROOT, wait_for
from worker.store.local import LocalStore

REFUSE_TORCH = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "open_clip", "celery", "fastapi"):
            raise ImportError(f"{name} was imported")
sys.meta_path.insert(0, Refuse())
sys.argv[0] = "app"
runpy.run_module("app", run_name="__main__")
"""


def command(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, where torch cannot be imported and no Redis is."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("NPT_")}
    env |= {"NPT_DATA_DIR": str(data), "NPT_REDIS_URL": "redis://127.0.0.1:1"}
    argv = [sys.executable, "-c", REFUSE_TORCH, "keys", *arguments]
    return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_a_running_server_takes_part_without_being_asked(
    make_settings: Callable[..., AppSettings],
) -> None:
    settings = make_settings(backbone="demo")
    with running_api(settings) as api:
        assert api.client.get("/jobs").status_code == 200
        made = command(settings.data_dir, "create", "--scope", "admin", "--label", "mine")
        assert made.returncode == 0, made.stderr
        secret = made.stdout.strip()  # alone, so that a script can take it
        assert re.fullmatch(r"npt_[0-9a-z]{26}_[A-Za-z0-9_-]{43}", secret)
        assert secret not in made.stderr

        headers = {"Authorization": f"Bearer {secret}"}
        wait_for("the server to ask for a key", lambda: api.client.get("/jobs").status_code == 401, 20)
        assert api.client.get("/jobs", headers=headers).status_code == 200

        (key,) = api.client.get("/keys", headers=headers).json()["items"]
        assert (key["created_by"], key["label"]) == ("command", "mine")
        listed = command(settings.data_dir, "list")
        assert listed.stdout.splitlines()[1].split()[:3] == [key["id"], "active", "admin"]

        ended = command(settings.data_dir, "revoke", key["id"])
        assert ended.returncode == 0, ended.stderr

        def refused() -> httpx.Response | None:
            answer = api.client.get("/jobs", headers=headers)
            return answer if answer.status_code == 401 else None

        assert "revoked" in wait_for("the key to be refused", refused, 20).json()["detail"]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], logging_left_alone: None
) -> Callable[..., tuple[int, str, str]]:
    """The command in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("NPT_DATA_DIR", str(tmp_path))

    def run_it(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["app", "keys", *arguments])
        code = main()
        said = capsys.readouterr()
        return code, said.out, said.err

    return run_it


def test_everything_a_key_can_be(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, out, _ = run(
        *("create", "--scope", "predict", "--scope", "tune", "--label", "camera", "--expires", "90d"),
        *("--requests-per-minute", "60", "--burst", "5", "--upload-bytes-per-day", "0"),
    )
    assert code == 0
    caller = Keyring([], KeyRepository(LocalStore(tmp_path))).find(out.strip())
    assert caller is not None
    assert caller.scopes == {"tune", "predict"}
    assert (caller.requests_per_minute, caller.burst, caller.upload_bytes_per_day) == (60, 5, 0)
    code, out, _ = run("list", "--json")
    (facts,) = map(json.loads, out.splitlines())
    assert (facts["id"], facts["state"], facts["label"]) == (caller.id, "active", "camera")
    assert "digest" not in facts
    left = datetime.fromisoformat(facts["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=89) < left <= timedelta(days=90)


def test_what_goes_wrong_is_told_in_a_line(run: Callable[..., tuple[int, str, str]]) -> None:
    assert run("list")[0] == 0
    code, out, err = run("create", "--scope", "tune", "--expires", "soon")
    assert (code, out) == (2, "")
    assert "--expires is 'soon'" in err
    code, _, err = run("create", "--scope", "tune", "--burst", "-1")
    assert code == 2
    assert "burst" in err
    code, _, err = run("revoke", "key_" + "0" * 26)
    assert code == 1
    assert "no key with the id" in err
    assert "Traceback" not in err


def test_revoking_twice_says_so(run: Callable[..., tuple[int, str, str]]) -> None:
    run("create", "--scope", "tune")
    key_id = run("list")[1].split("\n")[1].split()[0]
    assert "is revoked" in run("revoke", key_id)[2]
    assert "was revoked before" in run("revoke", key_id)[2]
    assert run("list")[1].splitlines()[1].split()[1] == "revoked"


def test_the_change_is_logged_without_the_key(tmp_path: Path) -> None:
    made = command(tmp_path, "create", "--scope", "tune")
    assert made.stdout.strip() not in made.stderr
    assert "key.create" in made.stderr
    assert "command" in made.stderr


NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("30m", NOW + timedelta(minutes=30)),
        ("12h", NOW + timedelta(hours=12)),
        ("90d", NOW + timedelta(days=90)),
        ("2030-01-31", datetime(2030, 1, 31, tzinfo=UTC)),
        ("2030-01-31T12:00:00+02:00", datetime(2030, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_expiry(text: str, when: datetime) -> None:
    assert expiry(text, NOW) == when


@pytest.mark.parametrize("text", ["", "90", "d", "90 d", "-1d", "tomorrow", "999999d" * 2, "2030-02-31"])
def test_no_expiry(text: str) -> None:
    with pytest.raises(ConfigError, match="--expires"):
        expiry(text, NOW)
