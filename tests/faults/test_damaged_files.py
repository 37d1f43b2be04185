"""Files of the store that are cut off or have a byte turned: found by checksum, told by id, no harm to the others."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.stack import CONFIG, Stack
from tests.support.service import ROOT

pytestmark = pytest.mark.timeout(900)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def turned(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 0x40
    path.write_bytes(bytes(data))


@pytest.fixture
def harm(stack: Stack) -> Iterator[Callable[[str, Callable[[Path], None]], None]]:
    """Damages a file of the store until the end of the test."""
    before: dict[Path, bytes] = {}

    def damage(key: str, how: Callable[[Path], None]) -> None:
        path = stack.data / key
        before.setdefault(path, path.read_bytes())
        how(path)

    yield damage
    for path, data in before.items():
        path.write_bytes(data)


def verify(stack: Stack) -> tuple[int, list[dict[str, Any]]]:
    """`npt verify`, beside the running service: exit code and what it names."""
    command = [sys.executable, "-m", "app", "verify", "--json", "--data-dir", str(stack.data)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("how", [cut, turned])
@pytest.mark.parametrize("file", ["classifier.safetensors", "manifest.json"])
def test_a_damaged_model_answers_nobody_and_the_others_do(
    stack: Stack, harm: Callable[..., None], tried: Callable[..., None], file: str, how: Callable[[Path], None]
) -> None:
    good = stack.reference()[0]["model_id"]
    bad = stack.ended(stack.tune(name="to be damaged"))["model_id"]
    code, found = verify(stack)
    assert (code, found) == (0, [])
    harm(f"models/{bad}/{file}", how)
    code, found = verify(stack)
    assert code == 1
    assert [(one["kind"], one["id"], one["file"]) for one in found] == [("model", bad, file)]
    answer = stack.predict(bad)  # it was never loaded
    assert answer.status_code == 500
    assert answer.json()["code"] == "corrupt-record"
    assert bad in answer.json()["detail"]
    assert file in answer.json()["detail"]
    assert stack.predict(good).status_code == 200
    asked = stack.ask_to_tune(CONFIG | {"parent": bad}, name="child of it")
    if asked.status_code == 202:  # what is read in the request was readable
        child = stack.ended(asked.json()["id"])
        assert (child["status"], child["error"]["code"]) == ("failed", "corrupt-record")
    else:
        assert (asked.status_code, asked.json()["code"]) == (500, "corrupt-record")
    assert stack.client.get(f"/models/{good}").status_code == 200
    tried(11, f"{file} of a model {how.__name__}", "named by id, answers nobody; others unaffected")


@pytest.mark.parametrize("how", [cut, turned])
def test_a_damaged_zip_is_named_with_its_data_set(
    stack: Stack, harm: Callable[..., None], tried: Callable[..., None], how: Callable[[Path], None]
) -> None:
    record = stack.services.datasets.get(stack.reference()[0]["dataset_id"])
    (archive,) = record.archives
    size = (stack.data / archive).stat().st_size

    def in_the_pictures(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[size // 2] ^= 0x40
        path.write_bytes(bytes(data))

    harm(archive, cut if how is cut else in_the_pictures)
    code, found = verify(stack)
    assert code == 1
    named = {(one["kind"], one["id"]) for one in found}
    assert named == {("archive", archive.rpartition("/")[2]), ("dataset", record.id)}
    other = stack.ended(stack.tune(seed=500_000, name="on other pictures"))
    assert other["status"] == "succeeded"
    tried(11, f"zip of a data set {how.__name__}", "zip and data set named by id; others unaffected")


def another_digit(path: Path) -> None:
    """The file is JSON of the same form afterwards, so that only its checksum can tell."""
    data = path.read_bytes()
    at = next(match.start() for match in re.finditer(rb"[0-8]", data))
    path.write_bytes(data[:at] + bytes([data[at] + 1]) + data[at + 1 :])
    json.loads(path.read_bytes())


@pytest.mark.parametrize("how", [cut, another_digit])
@pytest.mark.parametrize("key", ["jobs/{job}/job.json", "jobs/{job}/end.json", "datasets/{dataset}/dataset.json"])
def test_a_damaged_record_is_named_and_the_others_are_there(
    stack: Stack, harm: Callable[..., None], tried: Callable[..., None], key: str, how: Callable[[Path], None]
) -> None:
    stack.reference()
    job = stack.ended(stack.tune(seed=900_000, name="record to be damaged"))
    kind, _, file = key.partition("/{")
    bad = job["id"] if kind == "jobs" else job["dataset_id"]
    before = {path: stack.listed(path) for path in ("/jobs", "/models", "/datasets")}
    told = stack.client.get(f"/{kind}/{bad}").json()
    harm(key.format(job=job["id"], dataset=job["dataset_id"]), how)
    code, found = verify(stack)
    assert code == 1
    assert {(one["kind"], one["id"], one["file"]) for one in found} == {(kind[:-1], bad, file.partition("/")[2])}
    assert before[f"/{kind}"] - stack.listed(f"/{kind}") <= {bad}
    assert all(stack.listed(path) == before[path] for path in before if path != f"/{kind}")
    answer = stack.client.get(f"/{kind}/{bad}")
    if answer.status_code == 200:  # from memory, as it was
        assert answer.json() == told
    else:
        assert (answer.status_code, answer.json()["code"]) == (500, "corrupt-record")
    other = stack.ended(stack.tune(name="beside a damaged record"))
    assert other["status"] == "succeeded"
    tried(11, f"{file.partition('/')[2]} {how.__name__.replace('_', ' ')}", "named by id; others unaffected")


@pytest.mark.parametrize("how", [cut, turned])
def test_a_damaged_checkpoint_is_passed_over(
    stack: Stack, tried: Callable[..., None], how: Callable[[Path], None]
) -> None:
    reference, learned = stack.reference()
    gates = stack.gates()
    gates.close("tuning", after=20)
    job_id = stack.tune(name="checkpoint damaged")
    gates.wait_held("tuning")
    stack.kill_worker()
    gates.open("tuning")
    how(stack.data / f"jobs/{job_id}/checkpoint/0001")
    code, found = verify(stack)
    assert code == 1
    assert [(one["kind"], one["id"], one["file"]) for one in found] == [("job", job_id, "checkpoint/0001")]
    stack.start_worker()
    job = stack.ended(job_id)
    assert (job["status"], job["metrics"], stack.learned(job)) == ("succeeded", reference["metrics"], learned)
    stack.check([job_id])
    tried(11, f"checkpoint {how.__name__}", "named by id; the job begins again, same model")


def test_damaged_features_are_encoded_again(stack: Stack, tried: Callable[..., None]) -> None:
    """To the same features but for the last bits: a picture is encoded in other company than the first time."""
    reference, _ = stack.reference()
    file = stack.data / "features" / "features.sqlite3"
    stack.ended(stack.tune(name="fills the cache"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2 :: 4096] = bytes(byte ^ 0x40 for byte in data[len(data) // 2 :: 4096])
    file.write_bytes(bytes(data))
    job = stack.ended(stack.tune(name="on a broken cache"))
    stack.forget_work()
    assert job["status"] == "succeeded", job["error"]
    assert 0 < job["counters"]["images_encoded"] <= reference["counters"]["images_encoded"]
    for side in ("zero_shot", "tuned"):
        assert job["metrics"][side]["nll"] == pytest.approx(reference["metrics"][side]["nll"], rel=1e-4)
    tried(11, "cache of features damaged", "what is damaged is encoded again, nothing else")
