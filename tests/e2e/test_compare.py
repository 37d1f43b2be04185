"""Comparing models through the running service: real HTTP, real worker, images nobody was tuned on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import Service

QUICK = {"epochs": 3, "views": 1}


@pytest.fixture(scope="module")
def models(service: Service, digits: bytes) -> dict[str, str]:
    """A linear probe and a prompt that hardly moved; their ids by method."""
    jobs = {
        method: service.tune(digits, QUICK | {"method": method}).json()["id"] for method in ("linear_probe", "coop")
    }
    return {
        method: service.wait_for_status(job, "succeeded", timeout_s=300)["model_id"] for method, job in jobs.items()
    }


def compare(service: Service, archive: bytes, *models: str, **fields: str) -> dict[str, Any]:
    answer = service.client.post(
        "/compare", files={"dataset": ("labelled.zip", archive, "application/zip")}, data={"model": models, **fields}
    )
    assert answer.status_code == 202, answer.text
    return service.wait_for_status(answer.json()["id"], "succeeded", "failed", timeout_s=300)


def test_models_and_zero_shot_on_fresh_images(service: Service, models: dict[str, str], holdout: Path) -> None:
    service.client.put("/aliases/compared", json={"model": models["coop"]})
    job = compare(service, holdout.read_bytes(), models["linear_probe"], "compared")
    assert job["status"] == "succeeded", job["error"]
    found = service.client.get(f"/jobs/{job['id']}/comparison").json()
    assert {one["name"] for one in found["contestants"]} == {*models.values(), "zero-shot"}
    accuracy = {one["name"]: one["metrics"]["accuracy"] for one in found["contestants"]}
    assert accuracy == job["metrics"]["accuracy"]
    assert job["metrics"]["best"] == max(accuracy, key=lambda name: accuracy[name]) == found["test"]["first"]
    assert len(found["pairs"]) == 3
    right = {
        one["name"]: round(one["metrics"]["accuracy"] * found["dataset"]["images"]) for one in found["contestants"]
    }
    for pair in found["pairs"]:
        assert pair["only_first_right"] + pair["both_right"] == right[pair["first"]]
        assert pair["only_second_right"] + pair["both_right"] == right[pair["second"]]


def test_images_of_the_tuning_judge_nobody(service: Service, models: dict[str, str], digits: bytes) -> None:
    job = compare(service, digits, models["coop"])
    assert job["status"] == "failed"
    assert "used to tune one of the models" in job["error"]["detail"]
    kept = compare(service, digits, models["coop"], seen="keep")
    assert kept["status"] == "succeeded"
    assert any("looks better here" in text for text in kept["warnings"])


def test_a_comparison_can_be_followed_and_asked_for_again_with_no_new_encoding(
    service: Service, models: dict[str, str], holdout: Path
) -> None:
    first = compare(service, holdout.read_bytes(), models["coop"])
    again = compare(service, holdout.read_bytes(), models["coop"])
    one, other = (service.client.get(f"/jobs/{job['id']}/comparison").json() for job in (first, again))
    assert json.dumps(one) == json.dumps(other)
    with service.client.stream("GET", f"/jobs/{again['id']}/events") as answer:
        events = [line for line in answer.iter_lines() if line.startswith("event:")]
    assert events[-1] == "event: end"
