"""How docker/smoke.sh ends: its reason is said first, and everything is taken down whoever else wants an end."""

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

import pytest

from tests.support.service import ROOT, wait_for

SMOKE = ROOT / "docker" / "smoke"


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
