"""`npt` beside a real service: a job goes on when its onlooker leaves, and everything it made can be used."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest

from tests.support.service import ROOT, Service
from tests.support.terminal import in_terminal, npt

JOB = re.compile(r"job_[0-9a-z]{26}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with zipfile.ZipFile(ROOT / "examples" / "digits.zip") as archive:
        archive.extractall(tmp_path / "digits")
    return tmp_path / "digits"


def test_ctrl_c_in_the_middle_of_a_tuning(service: Service, folder: Path, tmp_path: Path) -> None:
    arguments = ["tune", folder, "--name", "terminal", "--epochs", "60", "--wait"]
    with in_terminal(arguments, NPT_URL=service.url) as terminal:
        terminal.wait_for("loss ")  # it is being tuned, and the bar shows how
        terminal.interrupt()
        assert terminal.end() == 130
        job = JOB.findall(terminal.text)[0]
        terminal.wait_for(f"npt jobs watch {job}")
    assert service.job(job)["status"] == "running"

    watched = npt("jobs", "watch", job, NPT_URL=service.url)  # as it was told
    assert watched.returncode == 0, watched.stderr
    assert "Accuracy on images it was not tuned on" in watched.stdout
    model = service.job(job)["model_id"]

    answers = npt("predict", model, folder / "7", "--json", "-k", "1", NPT_URL=service.url)
    rows = [json.loads(line) for line in answers.stdout.splitlines()]
    assert len(rows) == 16
    assert {row["model"] for row in rows} == {model}
    out = npt("export", model, "-o", tmp_path / "m.zip", NPT_URL=service.url)
    assert out.returncode == 0, out.stderr
    here = npt("predict", tmp_path / "m.zip", folder / "7", "--json", "-k", "1")  # without a server
    for there, row in zip(rows, map(json.loads, here.stdout.splitlines()), strict=True):
        assert row["top"][0]["label"] == there["top"][0]["label"]
        assert row["top"][0]["probability"] == pytest.approx(there["top"][0]["probability"], abs=1e-4)


def test_cancel_from_another_terminal(service: Service, folder: Path) -> None:
    with in_terminal(["tune", folder, "--epochs", "2000", "--wait"], NPT_URL=service.url) as terminal:
        terminal.wait_for("loss ")
        job = JOB.findall(terminal.text)[0]
        assert npt("jobs", "cancel", job, NPT_URL=service.url).returncode == 0
        assert terminal.end() == 1
        assert f"The job {job} did not succeed" in terminal.text


def test_the_store_of_a_running_service_is_whole_and_the_doctor_sees_it(service: Service) -> None:
    data = {"NPT_DATA_DIR": str(service.data)}
    whole = npt("verify", **data)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    told = npt("doctor", "--json", **data, NPT_REDIS_URL="")
    found = {check["check"]: check for check in map(json.loads, told.stdout.splitlines())}
    assert told.returncode == 0, told.stdout
    assert service.url in found["port"]["found"]
    assert "demo: loaded" in found["weights"]["found"]
