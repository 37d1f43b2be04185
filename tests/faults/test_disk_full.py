"""A data volume that fills up in an upload, the cache, a checkpoint, the end: said clearly, and mended by room.

The volume is a small file system of its own, which only root may mount; elsewhere these tests are skipped and say so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.stack import AFTER, Stack, pictures
from tests.support.service import wait_for

pytestmark = pytest.mark.timeout(900)

SIZE_MB = 32
ZIP = {"Content-Type": "application/zip"}


class Volume:
    """A small mounted file system, and a file that takes the room in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.filler = folder, folder / "filler"

    def fill(self, leave: int = 0) -> None:
        """Take all room but so many bytes."""
        free = shutil.disk_usage(self.folder).free
        with self.filler.open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, file.tell() + free - leave))

    def make_room(self) -> None:
        self.filler.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Volume]:
    folder = tmp_path_factory.mktemp("volume")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here: the tests of a full disk need root")
    try:
        yield Volume(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def small(volume: Volume, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("small"), data=volume.folder / "data", NPT_MIN_FREE_BYTES="0")
    try:
        stack.start(ready=False)
        yield stack
    finally:
        stack.close()


@pytest.fixture
def roomy(small: Stack, volume: Volume) -> Iterator[Stack]:
    """The stack on the small volume, with room on it now and again in the end."""
    yield small
    volume.make_room()
    small.settle()


@pytest.mark.parametrize("says_its_length", [True, False])
def test_an_upload(roomy: Stack, volume: Volume, tried: Callable[..., None], says_its_length: bool) -> None:
    body = pictures(400_000 + says_its_length, 100)
    before = roomy.services.datasets.list(limit=100).items
    volume.fill(leave=len(body) // 2 // 4096 * 4096)

    def send() -> int:
        content = body if says_its_length else iter([body[:4096], body[4096:]])
        answer = roomy.client.post("/datasets", content=content, headers=ZIP)
        if answer.status_code == 507:
            assert answer.json()["code"] == "store-full"
        return answer.status_code

    assert send() == 507
    assert roomy.services.datasets.list(limit=100).items == before
    wait_for("the part to be gone", lambda: not list((roomy.data / "uploads").glob("*")))
    assert roomy.damage() == []
    volume.make_room()
    assert send() == 201
    assert roomy.damage() == []
    tried(7, "disk full in an upload", "507, nothing left of it; taken once there is room")


def test_the_cache_of_features(roomy: Stack, volume: Volume, tried: Callable[..., None]) -> None:
    roomy.forget_work()
    gates = roomy.gates()
    gates.close("encoding")
    gates.close("tuning")
    job_id = roomy.tune(name="no room for features")
    gates.wait_held("encoding")
    volume.fill()
    gates.open("encoding")
    gates.wait_held("tuning")
    volume.make_room()
    gates.open("tuning")
    job = roomy.ended(job_id)
    assert (job["status"], job["attempts"]) == ("succeeded", 1), job["error"]
    roomy.check([job_id])
    tried(7, "disk full while features are cached", "the job goes on without the cache")


@pytest.mark.parametrize(("phase", "words"), [("tuning", "a checkpoint"), ("saving", "the model")])
def test_a_checkpoint_and_the_model(
    roomy: Stack, volume: Volume, tried: Callable[..., None], phase: str, words: str
) -> None:
    gates = roomy.gates()
    gates.close(phase, after=AFTER.get(phase, 0))
    job_id = roomy.tune(name=f"no room for {words}")
    gates.wait_held(phase)
    volume.fill(leave=8 * 1024)  # for a line that says so, not for what was learned
    gates.open(phase)
    job = roomy.ended(job_id)
    assert (job["status"], job["error"]["code"]) == ("failed", "store-full")
    assert "room" in job["error"]["detail"].lower()
    roomy.check([job_id])
    volume.make_room()
    again = roomy.ended(roomy.tune(name="with room"))
    assert again["status"] == "succeeded"
    roomy.check([job_id, again["id"]])
    tried(7, f"disk full when {words} is written", "the job fails and says so; the next one succeeds")


def test_not_even_the_end_can_be_written(roomy: Stack, volume: Volume, tried: Callable[..., None]) -> None:
    gates = roomy.gates()
    gates.close("tuning", after=AFTER["tuning"])
    job_id = roomy.tune(name="no room at all")
    gates.wait_held("tuning")
    said = roomy.workers["here"].listen()
    volume.fill()
    gates.open("tuning")
    wait_for("the worker to say so", lambda: said("not even the failure can be written"))
    assert roomy.damage() == []
    volume.make_room()
    job = roomy.ended(job_id)
    assert job["status"] == "succeeded", job["error"]
    roomy.check([job_id])
    tried(7, "disk full, not a byte left for the end of the job", "it waits, and is done once there is room")
