"""docker/smoke.sh without Docker: what it sends over HTTP, against a real service; how it ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.service import ROOT, running_service

SMOKE = ROOT / "docker" / "smoke"


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Its modules as the script imports them, and gone afterwards: their names are short."""
    monkeypatch.syspath_prepend(str(SMOKE))
    names = {path.stem for path in SMOKE.glob("*.py")} - {"__main__"}
    assert not names & set(sys.modules)
    import steps

    yield steps
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def key_of() -> object:
    def create(data: Path) -> str:
        env = {name: value for name, value in os.environ.items() if not name.startswith("NPT_")}
        argv = [sys.executable, "-m", "app", "keys", "create", "--scope", "admin", "--data-dir", str(data)]
        return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout.strip()

    return create


@pytest.mark.slow
def test_the_steps_over_http(steps: ModuleType, key_of, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    data = tmp_path / "data"
    with running_service(data, NPT_REQUIRE_KEY="true") as service:
        stage = steps.Stage(ROOT, tmp_path, [], 200.0, None)
        stage.client = type(stage.client)(service.url, None, 200.0)
        assert "401" in steps.closed(stage)
        stage.client.key = key_of(data)
        steps.wait_for("the key", lambda: stage.client.call("GET", "/keys").status == 200, 60, 0.1)
        with pytest.raises(Exception, match="without a key"):
            steps.closed(type("Open", (), {"client": stage.client})())
        assert "events" in steps.tune(stage)
        assert "400 pictures" in steps.predict(stage)
        assert "400 rows" in steps.batch(stage)
        steps.same(stage)
        stage.answers[0] = stage.answers[0] | {"probability": stage.answers[0]["probability"] / 2}
        with pytest.raises(Exception, match="probabilities have changed"):
            steps.same(stage)


def test_an_unknown_step_is_named() -> None:
    done = subprocess.run([sys.executable, str(SMOKE), "--only", "tune,lunch"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no step lunch" in done.stderr


def test_without_compose_it_fails_and_says_so(tmp_path: Path) -> None:
    env = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, str(SMOKE)], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert "there is no Compose" in done.stderr
    assert "smoke: ok" not in done.stdout


def test_backup_and_restore_are_the_commands_of_the_documentation(
    steps: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, says in (
        ("compose", "[ $3 != images ] || echo 5a1d"),
        ("docker", f'echo "$@" >>{tmp_path}/asked; seq 5000'),
    ):
        (tmp_path / name).write_text(f"#!/bin/bash\n{says}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    deployment = steps.Stage(ROOT, tmp_path, [str(tmp_path / "compose")], 1.0, None).deployment
    deployment.backup(tmp_path / "store.tar")
    deployment.restore(tmp_path / "store.tar")
    text = (ROOT / "docs" / "deploy.md").read_text().replace("\\\n", " ")
    shown = re.findall(r"^ {4}docker (run .*PROJECT_store.*tar .*) [<>] store\.tar$", text, re.MULTILINE)
    image, volume = '"$(docker compose images -q worker)"', f"{deployment.project}_store"
    wanted = [line.replace("PROJECT_store", volume).replace(image, "5a1d").split() for line in shown]
    assert len(wanted) == 2
    asked = [line.split() for line in (tmp_path / "asked").read_text().splitlines()]
    assert [[word for word in words if word != "-i"] for words in asked] == [
        [word for word in words if word != "-i"] for words in wanted
    ]


STAND_INS = {
    "PYTHON_IMAGE": "python:npt-standin",
    "REDIS_IMAGE": "redis:npt-standin",
    "NGINX_IMAGE": "nginx:npt-standin",
}


def run_with_bases(tmp_path: Path, script: str) -> subprocess.CompletedProcess[str]:
    """The whole script where there is no Compose, with a command for base images."""
    bases = tmp_path / "bases"
    bases.write_text(f"#!/bin/sh\n{script}\n")
    bases.chmod(0o755)
    env = {"PATH": str(tmp_path), "HOME": str(tmp_path), "SMOKE_BASES": f"{bases} --for-a-test"}
    return subprocess.run([sys.executable, str(SMOKE)], env=env, capture_output=True, text=True)


def test_stand_ins_never_have_the_names_of_official_images(tmp_path: Path) -> None:
    done = run_with_bases(tmp_path, f'echo "$@" >{tmp_path}/asked')
    assert (tmp_path / "asked").read_text().split() == ["--for-a-test", *STAND_INS.values()]
    assert (done.returncode, "there is no Compose" in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize(("code", "ends_with"), [(3, 3), (1, 1)])
def test_no_engine_is_told_from_a_command_that_fails(tmp_path: Path, code: int, ends_with: int) -> None:
    done = run_with_bases(tmp_path, f"exit {code}")
    assert done.returncode == ends_with
    assert ("no Docker engine" if code == 3 else "ended with 1") in done.stderr
    assert "smoke: ok" not in done.stdout


def test_compose_is_told_of_the_base_images(steps: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bases

    monkeypatch.setenv("SMOKE_BASES", "true")
    monkeypatch.setenv("REDIS_IMAGE", "mirror.example.org/redis:7.2-bookworm")
    for name in ("DOCKER_BUILDKIT", "COMPOSE_DOCKER_CLI_BUILD"):
        monkeypatch.setenv(name, "1")
    assert bases.base_images(ROOT) == STAND_INS
    assert os.environ["DOCKER_BUILDKIT"] == "0"
    stage = steps.Stage(ROOT, tmp_path, [], 1.0, None, STAND_INS)
    written = (stage.deployment.folder / ".env").read_text()
    assert all(f"\n{name}={image}\n" in written for name, image in STAND_INS.items())
    monkeypatch.delenv("SMOKE_BASES")
    assert bases.base_images(ROOT) == {"REDIS_IMAGE": "mirror.example.org/redis:7.2-bookworm"}


@dataclass
class Seen:
    """What a deployment's containers wrote, and what the engine knows of them."""

    written: str
    known: str = ""

    def logs(self) -> str:
        return self.written

    def containers(self) -> list[str]:
        return [self.known]


def test_a_secret_that_is_seen_is_named_and_not_shown(steps: ModuleType, tmp_path: Path) -> None:
    stage, key = steps.Stage(ROOT, tmp_path, [], 1.0, None), "npt_06dzj3x8m4q9t2v7k1c5w8n0ra_a_b-c"
    stage.hide("the first key", key)
    steps.no_secret_is_seen(stage, Seen("key 06dzj3x8m4q9t2v7k1c5w8n0ra was made", f"redis://:{stage.password}@redis"))
    for seen, what in (
        (Seen(f"GET /models Bearer {key}"), "the first key is in the logs"),
        (Seen("only its end, a_b-c"), "the first key is in the logs"),
        (Seen("", f"NPT_API_KEYS={key}"), "the first key is in `docker inspect`"),
        (Seen(f"requirepass {stage.password}"), "the password of Redis is in the logs"),
    ):
        with pytest.raises(Exception, match=what) as refused:
            steps.no_secret_is_seen(stage, seen)
        assert not [secret for secret in stage.hidden.values() if secret in str(refused.value)]


def test_the_documented_file_of_keys_is_what_is_tried(steps: ModuleType, tmp_path: Path) -> None:
    stage = steps.Stage(ROOT, tmp_path, [], 1.0, None)
    steps.add_keys_file(stage, "a-key")
    d = stage.deployment
    assert d.files == ("docker-compose.yml", "docker-compose.override.yml")
    assert "NPT_API_KEYS_FILE: /run/secrets/npt_keys" in (d.folder / "docker-compose.override.yml").read_text()
    assert "a-key" in (d.folder / "npt_keys").read_text().splitlines()


def test_what_is_staged_is_what_the_images_are_made_of(steps: ModuleType, tmp_path: Path) -> None:
    stage = steps.Stage(ROOT, tmp_path, [], 1.0, None)
    folder = stage.deployment.folder
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            assert (folder / line[1:]).exists(), line
    assert (folder / "docker" / "nginx.conf").is_file()
    assert not list(folder.rglob("__pycache__"))
    written = (folder / ".env").read_text()
    assert f"\nREDIS_PASSWORD={stage.password}\n" in written
    assert stage.password not in repr(stage)
