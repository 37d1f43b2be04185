"""docker/smoke.sh without Docker: what it sends over HTTP, against a real service; how it ends."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.service import ROOT, running_service, wait_for

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


@dataclass
class Interrupted:
    """The whole script, in a process group of its own, with a Compose that does as it is told."""

    folder: Path
    process: subprocess.Popen[str]

    @property
    def record(self) -> str:
        return (self.folder / "record").read_text()

    def reaches(self, name: str) -> None:
        there = self.folder / name
        wait_for(f"the Compose writes {name}", lambda: there.exists() or self.process.poll() is not None)
        assert there.exists(), self.process.communicate()[1]


@pytest.fixture
def interrupted(tmp_path: Path) -> Iterator[Callable[[str], Interrupted]]:
    """Start it with what its Compose does for `build`; `down` goes on once there is a file `go`."""
    made: list[Interrupted] = []

    def start(build: str) -> Interrupted:
        compose = tmp_path / "compose"
        down = "touch down-begun; until [ -e go ]; do sleep 0.1; done; touch down-done"
        does = f"case $* in *build*) {build} ;; *down*--volumes*) {down} ;; esac"
        compose.write_text(f"#!/bin/bash\ncd {tmp_path}\n{does}\n")
        compose.chmod(0o755)
        env = os.environ | {"SMOKE_COMPOSE": str(compose), "SMOKE_RECORD": str(tmp_path / "record")}
        env = {name: value for name, value in env.items() if name != "SMOKE_BASES"} | {"SMOKE_PREVIOUS": "HEAD"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen([sys.executable, str(SMOKE)], env=env, start_new_session=True, **pipes)  # type: ignore[call-overload]
        made.append(Interrupted(tmp_path, process))
        return made[0]

    yield start
    (tmp_path / "go").touch()
    for run in made:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.process.pid, signal.SIGKILL)
        run.process.communicate()


def test_what_failed_is_said_first_and_taking_down_is_not_cut_short(
    interrupted: Callable[[str], Interrupted],
) -> None:
    """As `timeout` does it: SIGTERM to the whole group, while it takes everything down."""
    run = interrupted("echo no room >&2; exit 1")
    run.reaches("down-begun")
    project, failed = run.record.splitlines()
    assert re.fullmatch(r"project npt-smoke-[0-9a-f]{6}", project)
    assert failed.startswith("failed at images: ")
    os.killpg(run.process.pid, signal.SIGTERM)
    os.killpg(run.process.pid, signal.SIGINT)
    (run.folder / "go").touch()
    _, said = run.process.communicate(timeout=120)
    assert run.process.returncode == 1
    assert (run.folder / "down-done").exists()
    assert "smoke: failed at images" in said
    assert "no room" in said


def test_an_interrupted_run_is_taken_down_and_is_no_failure(interrupted: Callable[[str], Interrupted]) -> None:
    run = interrupted("touch build-begun; exec sleep 60")
    run.reaches("build-begun")
    os.killpg(run.process.pid, signal.SIGTERM)
    run.reaches("down-begun")
    (run.folder / "go").touch()
    _, said = run.process.communicate(timeout=120)
    assert (run.process.returncode, "smoke: interrupted" in said) == (130, True)
    assert (run.folder / "down-done").exists()
    assert "failed" not in run.record


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


def test_it_takes_down_what_stands_when_it_is_told_to_end(tmp_path: Path) -> None:
    """By `timeout`, which tells it twice; here by a Compose that says what it was asked for."""
    asked = tmp_path / "asked"
    fake = f'#!/bin/bash\nshift 2; echo "$1" >>{asked}\n[ "$1" != build ] || sleep 60\n[ "$1" != down ] || sleep 1\n'
    for name, text in (("docker-compose", fake), ("docker", "#!/bin/bash\nexit 1\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    process = subprocess.Popen([sys.executable, str(SMOKE)], env=env, stderr=subprocess.PIPE, text=True)
    wait_for("the build", lambda: asked.exists() and "build" in asked.read_text())
    process.terminate()
    wait_for("the taking down", lambda: "down" in asked.read_text())
    process.terminate()
    said = process.communicate(timeout=60)[1]
    assert (process.returncode, said) == (130, "smoke: interrupted\n")


def test_bases_sh_refuses_every_other_name() -> None:
    for name in ("python:3.11-slim-bookworm", "redis:7.2-bookworm", "postgres:npt-standin"):
        argv = [ROOT / "docker" / "bases.sh", "python:npt-standin", name]
        done = subprocess.run(argv, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
        assert done.returncode == 2
        assert name in done.stderr


@dataclass
class Machine:
    """Programs that docker/bases.sh finds: an engine that answers once `dockerd` has run, whoever one is."""

    folder: Path

    def program(self, name: str, script: str) -> None:
        (self.folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.folder / name).chmod(0o755)

    def bases(self) -> subprocess.CompletedProcess[str]:
        env = {
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "BASES_ENGINE_LOG": str(self.folder / "log"),
            "BASES_ENGINE_PID_FILE": str(self.folder / "pid"),
        }
        return subprocess.run([ROOT / "docker" / "bases.sh"], env=env, capture_output=True, text=True)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.program("docker", f"test -e {tmp_path}/answers")
    made.program("docker-compose", "")
    made.program("dockerd", f"touch {tmp_path}/answers; exec sleep 600")
    made.program("id", "echo 0")
    return made


def test_bases_sh_tells_which_engine_it_started(machine: Machine) -> None:
    done = machine.bases()
    pid = int((machine.folder / "pid").read_text())
    try:
        assert done.returncode == 0, done.stderr
        wait_for("it", lambda: Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x00600\x00")
        assert os.getsid(pid) == pid
    finally:
        os.kill(pid, signal.SIGKILL)


def test_bases_sh_leaves_an_engine_alone_that_answers(machine: Machine) -> None:
    (machine.folder / "answers").touch()
    assert machine.bases().returncode == 0
    assert not (machine.folder / "pid").exists()


def test_whoever_is_not_root_can_have_no_engine(machine: Machine) -> None:
    machine.program("id", "echo 1000")
    done = machine.bases()
    assert (done.returncode, "not root" in done.stderr) == (3, True)
    assert not (machine.folder / "pid").exists()


def test_an_engine_that_leaves_no_log_is_no_engine(machine: Machine) -> None:
    machine.program("dockerd", f"rm {machine.folder}/log")
    machine.program("seq", "echo 1")
    done = machine.bases()
    assert (done.returncode, "does not start" in done.stderr) == (3, True)


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
