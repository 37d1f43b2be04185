"""What CI makes of docker/smoke.sh: when it runs, when once more, and what its end means."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.service import ROOT

LONG = "sleep 60"


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
    made.write("bin/docker", "#!/bin/sh\n")  # an engine answers: none is started, and none is stopped
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
