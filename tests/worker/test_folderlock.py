from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import python
from tests.support.service import ROOT, wait_for
from worker.folderlock import FolderLock, FolderLockedError

HOLD = """
import sys, pathlib
sys.path.insert(0, sys.argv[2])
from worker.folderlock import FolderLock
with FolderLock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_second_is_told_who_holds_it(tmp_path: Path) -> None:
    with (
        FolderLock(tmp_path),
        pytest.raises(FolderLockedError, match=f"in use by process {os.getpid()}"),
        FolderLock(tmp_path),
    ):
        pass
    with FolderLock(tmp_path):  # and afterwards it is free
        pass


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), str(ROOT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    with holder.stdout, holder.stdin:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(FolderLockedError, match=f"process {holder.pid}"), FolderLock(tmp_path):
            pass
        holder.kill()
        holder.wait()
    with FolderLock(tmp_path):
        pass


def test_children_of_a_dead_holder_are_waited_for(tmp_path: Path) -> None:
    told: list[bool] = []
    with FolderLock(tmp_path) as lock:
        child = subprocess.Popen(python("import time; time.sleep(600)"), pass_fds=[lock.fileno()])
    (tmp_path / "run" / "service.lock").write_text("999999999\n")  # a number no process has
    with pytest.raises(FolderLockedError, match="left behind"), FolderLock(tmp_path, wait_s=0.2):
        pass

    def free_it() -> None:
        told.append(True)
        child.kill()
        child.wait()

    with FolderLock(tmp_path, wait_s=30, on_wait=free_it):
        assert told == [True]
    wait_for("the child", lambda: child.poll() is not None)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FolderLockedError, match="NPT_DATA_DIR"), FolderLock(tmp_path / "file"):
        pass
