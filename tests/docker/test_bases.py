"""docker/bases.sh: which names it gives, and which engine it starts."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.service import ROOT, wait_for


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
