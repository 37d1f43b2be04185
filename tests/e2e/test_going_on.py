"""A model of digits 0 to 4 learns 5 to 9; no old picture is sent again. Real HTTP, real worker, the demo backbone."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_restart import find
from tests.support.service import Service, running_service, wait_for

QUICK = {"epochs": 8, "views": 1}


def part(data: bytes, digits: str) -> bytes:
    """The pictures of some digits."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            if name.split("/")[0] in tuple(digits) and not name.endswith("/"):
                target.writestr(name, source.read(name))
    return out.getvalue()


def tune(service: Service, data: bytes, **config: Any) -> dict[str, Any]:
    answer = service.tune(data, QUICK | config)
    assert answer.status_code == 202, answer.text
    job = service.wait_for_status(answer.json()["id"], "succeeded", timeout_s=300)
    return {"job": job, "report": service.client.get(f"/models/{job['model_id']}/report").json()}


def right(service: Service, model: str, holdout: Path) -> dict[str, float]:
    """Share of held-out pictures that are read right, by digit."""
    found = {}
    with zipfile.ZipFile(holdout) as archive:
        for digit in map(str, range(10)):
            names = [name for name in archive.namelist() if name.startswith(f"{digit}/")][:12]
            files = [("images", (Path(name).name, archive.read(name), "image/png")) for name in names]
            answer = service.client.post("/predict", files=files, data={"model": model})
            assert answer.status_code == 200, answer.text
            rows = answer.json()["predictions"]
            found[digit] = sum(row["top"][0]["label"] == digit for row in rows) / len(rows)
    return found


@pytest.fixture(scope="module")
def first(service: Service, digits: bytes) -> dict[str, Any]:
    made = tune(service, part(digits, "01234"))
    assert service.client.put("/aliases/reads-digits", json={"model": made["job"]["model_id"]}).status_code == 200
    return made


def test_new_classes_are_learned_and_old_ones_kept(
    service: Service, digits: bytes, holdout: Path, first: dict[str, Any]
) -> None:
    made = tune(service, part(digits, "56789"), parent="reads-digits", max_old_loss=0.05)
    model, parent = made["job"]["model_id"], first["job"]["model_id"]
    answer = service.client.get(f"/models/{model}").json()
    assert answer["labels"] == [str(digit) for digit in range(10)]
    assert answer["lineage"]["ancestors"][0]["id"] == parent
    told = made["report"]["parent"]
    assert (told["id"], told["old_classes"], told["new_classes"]) == (parent, list("01234"), list("56789"))
    assert told["protection"]["replayed"] > 0
    for when in ("before", "at_start", "after"):
        measured = told["old_accuracy"][when]
        low, high = measured["accuracy_interval"]
        assert low <= measured["accuracy"] <= high
        assert measured["count"] >= 15
    assert "the parent was tuned on" in told["measured"]
    assert told["new_accuracy"]["accuracy"] > 0.8
    found = right(service, model, holdout)
    assert sum(found.values()) / 10 > 0.85
    assert min(found.values()) > 0.5


def test_what_is_not_at_hand_is_not_claimed(
    service: Service, digits: bytes, holdout: Path, first: dict[str, Any], tmp_path: Path
) -> None:
    """On another server there is the model alone, without its pictures; and a killed worker changes nothing."""
    sent = service.client.get(f"/models/{first['job']['model_id']}/export").content
    with running_service(tmp_path / "elsewhere") as there:
        parent = there.client.post("/models/import", files={"file": ("m.zip", sent)}).json()["id"]
        job_id = there.tune(part(digits, "56789"), QUICK | {"parent": parent, "epochs": 25}).json()["id"]
        wait_for("tuning to begin", lambda: (there.job(job_id)["progress"] or {}).get("phase") == "tuning", 90)
        find(there, "-m", "worker").kill()
        job = there.wait_for_status(job_id, "succeeded", timeout_s=300)
        assert job["attempts"] >= 2
        told = there.client.get(f"/models/{job['model_id']}/report").json()["parent"]
        assert told["protection"]["used"] == "null-space"
        assert told["old_accuracy"] is None
        assert "not measured" in told["measured"]
        assert any("was not measured" in warning for warning in job["warnings"])
        found = right(there, job["model_id"], holdout)
        assert sum(found.values()) / 10 > 0.85
        inherited = there.client.get(f"/models/{job['model_id']}").json()["manifest"]["inherited"]
        assert inherited["datasets"] == [first["job"]["dataset_id"]]
