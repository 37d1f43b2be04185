"""What CI makes of docker/smoke.sh: when it runs, when once more, and what its end means."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.service import ROOT, wait_for

LONG = "sleep 60"


def is_running(pid: int) -> bool:
    """Not where it has ended and nobody has asked for its exit code yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@dataclass
class Tree:
    """A checkout in which docker/smoke.sh does as it is told, one line a run."""

    folder: Path

    def run(self, *smoke: str, limit: int = 5000, gone: int = 0) -> tuple[int, int, str]:
        """Exit code of .ci/deployment, runs of the smoke test, what was printed; after `gone` seconds of its limit."""
        (self.folder / "ends").write_text("".join(f"{line}\n" for line in smoke))
        runs = self.folder / "runs"
        runs.write_text("")
        # A shell goes on counting from the SECONDS it is given.
        env = {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "SECONDS": str(gone)}
        done = subprocess.run([self.folder / ".ci" / "deployment", str(limit)], env=env, capture_output=True, text=True)
        return done.returncode, len(runs.read_text()), done.stdout

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path)
    made.write(".ci/deployment", "")
    shutil.copy(ROOT / ".ci" / "deployment", tmp_path / ".ci" / "deployment")
    made.write("docker/smoke.sh", '#!/bin/bash\nprintf x >>runs\neval "$(sed -n "$(wc -c <runs)p" ends)"\n')
    made.write("bin/docker", "#!/bin/sh\n")  # an engine that has nothing
    return made


def test_it_runs_once_where_it_is_well(tree: Tree) -> None:
    assert tree.run("exit 0") == (0, 1, "")


def test_without_time_or_engine_it_is_left_out_and_said(tree: Tree) -> None:
    assert tree.run("exit 1", limit=1499) == (
        0,
        0,
        "The deployment was not tried out: there are 1499 seconds for it, and 1500 are wanted.\n",
    )
    assert tree.run("exit 3") == (0, 1, "The deployment was not tried out: there can be no Docker engine here.\n")


def test_what_fails_has_one_more_try_where_there_is_time(tree: Tree) -> None:
    assert tree.run("exit 1", "exit 0")[:2] == (0, 2)
    assert tree.run("exit 1", "exit 1", "exit 0")[:2] == (1, 2)
    assert tree.run("exit 1", "exit 0", limit=1500, gone=700)[:2] == (1, 1)


def test_what_does_not_end_is_ended_and_is_no_failure(tree: Tree) -> None:
    code, runs, said = tree.run(f"exec {LONG}", "exit 1", limit=1500, gone=1498)
    assert (code, runs) == (0, 1)
    assert said == "The deployment was not tried out: docker/smoke.sh had not finished within 1500 seconds.\n"


def test_what_failed_and_does_not_end_then_is_a_failure(tree: Tree) -> None:
    real = shutil.which("timeout")
    shorter = f'#!/bin/bash\n[ ! -s runs ] || set -- "$1" 1 "${{@:3}}"\nexec {real} "$@"\n'
    tree.write("bin/timeout", shorter)  # the second run gets a second
    assert tree.run("exit 1", f"exec {LONG}")[:2] == (124, 2)


def test_what_has_failed_is_a_failure_even_if_the_cleaning_up_does_not_end(tree: Tree) -> None:
    """`timeout` says the same of both, and what was found before must not be lost."""
    smoke = f'echo "failed at tune: 0.1 of the pictures" >>"$SMOKE_RECORD"; exec {LONG}'
    code, runs, said = tree.run(smoke, limit=1500, gone=1498)
    assert (code, runs) == (124, 1)
    assert said == "docker/smoke.sh failed at tune: 0.1 of the pictures\n"


def test_what_is_left_of_its_projects_is_removed_and_nothing_else(tree: Tree) -> None:
    listed = 'case "$1 $2" in "ps --all") echo c1; echo c2 ;; "volume ls") echo v1 ;; esac'
    tree.write("bin/docker", f'#!/bin/sh\necho "$@" >>{tree.folder}/asked\n{listed}\n')
    assert tree.run('echo "project npt-smoke-00aa11" >>"$SMOKE_RECORD"')[:2] == (0, 1)
    label = "--filter label=com.docker.compose.project=npt-smoke-00aa11"
    assert (tree.folder / "asked").read_text().splitlines() == [
        f"ps --all --quiet {label}",
        "rm --force c1 c2",
        f"volume ls --quiet {label}",
        "volume rm v1",
        f"network ls --quiet {label}",
    ]


def test_an_engine_that_does_not_answer_makes_no_failure(tree: Tree) -> None:
    tree.write("bin/docker", "#!/bin/sh\nexit 1\n")
    assert tree.run('echo "project npt-smoke-00aa11" >>"$SMOKE_RECORD"')[:2] == (0, 1)


def test_the_engine_that_was_started_for_it_is_ended(tree: Tree) -> None:
    started = f"setsid {LONG} </dev/null >/dev/null 2>&1 & echo $! | tee engine >$BASES_ENGINE_PID_FILE"
    assert tree.run(started)[:2] == (0, 1)
    pid = int((tree.folder / "engine").read_text())
    wait_for("the engine to end", lambda: not is_running(pid))


def test_an_engine_that_is_gone_or_another_users_makes_no_failure(tree: Tree) -> None:
    gone = "sleep 0 & echo $! >$BASES_ENGINE_PID_FILE; wait"
    assert tree.run(gone)[:2] == (0, 1)
    code, _, said = tree.run(f"{gone}; exit 3")
    assert (code, said.count("there can be no Docker engine here")) == (0, 1)
