"""From answers a model was not sure about to its next version: real HTTP, real worker."""

from __future__ import annotations

import zipfile
from pathlib import Path

from tests.support.service import Service, wait_for


def test_unsure_answers_are_labelled_and_learned_from(service: Service, digits: bytes, holdout: Path) -> None:
    with zipfile.ZipFile(holdout) as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")][::10]
        pictures = [(name, archive.read(name)) for name in names]
    answer = service.client.post(
        "/tune",
        files={"dataset": ("digits.zip", digits, "application/zip")},
        data={"config": '{"method": "linear_probe", "epochs": 3, "views": 1, "seed": 5}', "name": "learns"},
    )
    first = service.wait_for_status(answer.json()["id"], "succeeded", timeout_s=300)["model_id"]
    url = f"/models/{first}/feedback"
    assert service.client.put(url, json={"enabled": True, "below": 1.0}).status_code == 200

    def keeps() -> bool:  # a running server notices the switch within a second
        service.client.post("/predict", files={"images": pictures[0]}, data={"model": first})
        return bool(service.client.get(url).json()["items"])

    wait_for("a picture to be kept", keeps, every_s=0.3)
    for name, picture in pictures[1:]:
        service.client.post("/predict", files={"images": (name, picture)}, data={"model": first})
    wait_for("all to be kept", lambda: service.client.get(url).json()["items"] == len(pictures))
    kept = service.client.get(f"{url}/items", params={"limit": 200}).json()["items"]
    labels = {one["id"]: one["filename"].split("/")[0] for one in kept}
    assert service.client.post(f"{url}/labels", json={"labels": labels}).json()["labelled"] == len(pictures)

    job = service.client.post(f"{url}/tune").json()
    assert job["config"]["epochs"] == 3
    done = service.wait_for_status(job["id"], "succeeded", timeout_s=300)
    second = service.client.get(f"/models/{done['model_id']}").json()
    assert (second["name"], second["version"]) == ("learns", 2)
    dataset = service.client.get(f"/datasets/{second['dataset_id']}").json()
    assert dataset["change"]["added"] == len(pictures)
    assert service.client.delete(f"/models/{first}").status_code == 204
    assert not (service.data / "feedback" / first).exists()
