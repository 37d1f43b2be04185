"""`npt models`, `aliases`, `jobs`, `datasets` against a real server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.access.repository import KeyRepository, Wanted
from tests.support.api import Api, running_api, store_model
from tests.support.service import wait_for
from tests.support.terminal import in_terminal, npt
from worker.store.local import LocalStore


@pytest.fixture
def model(api: Api, towers: tuple[str, str]) -> str:
    return store_model(api.services, towers[0], name="kept")


def test_models_are_listed_shown_and_deleted(api: Api, model: str) -> None:
    listed = npt("models", "list", "--name", "kept", NPT_URL=api.url)
    assert listed.stdout.splitlines()[0].split()[0] == "MODEL"
    row = next(line for line in listed.stdout.splitlines() if line.startswith(model))
    assert "100.0 %" in row
    assert "coop" in row
    lines = [json.loads(line) for line in npt("models", "list", "--json", NPT_URL=api.url).stdout.splitlines()]
    assert model in {one["id"] for one in lines}
    assert "red, green, blue" in npt("models", "show", model, NPT_URL=api.url).stdout
    assert json.loads(npt("models", "show", model, "--json", NPT_URL=api.url).stdout)["id"] == model

    unasked = npt("models", "delete", model, NPT_URL=api.url)
    assert unasked.returncode == 2
    assert "--yes" in unasked.stderr
    assert npt("models", "delete", model, "--yes", NPT_URL=api.url).returncode == 0
    gone = npt("models", "show", model, NPT_URL=api.url)
    assert gone.returncode == 1
    assert "no model" in gone.stderr


def test_a_person_is_asked_before_something_goes(api: Api, model: str) -> None:
    with in_terminal(["models", "delete", model], NPT_URL=api.url) as terminal:
        terminal.wait_for("for good?")
        terminal.answer("n")
        assert terminal.end() == 1
    assert api.services.models.get(model).id == model
    with in_terminal(["models", "delete", model], NPT_URL=api.url) as terminal:
        terminal.wait_for("for good?")
        terminal.answer("y")
        assert terminal.end() == 0
    assert npt("models", "show", model, NPT_URL=api.url).returncode == 1


def test_aliases_move_and_tell_the_way_back(api: Api, model: str, towers: tuple[str, str]) -> None:
    other = store_model(api.services, towers[0], name="kept")
    assert npt("aliases", "set", "moving", model, NPT_URL=api.url).returncode == 0
    moved = npt("aliases", "set", "moving", other, NPT_URL=api.url)
    assert moved.stdout.strip() == f"moving -> {other}"
    assert f"npt aliases set moving {model}" in moved.stderr
    assert other in npt("models", "show", "moving", NPT_URL=api.url).stdout
    held = npt("models", "delete", other, "-y", NPT_URL=api.url)
    assert held.returncode == 1
    assert "'moving'" in held.stderr
    lines = npt("aliases", "list", "--json", NPT_URL=api.url).stdout.splitlines()
    assert {"alias": "moving", "model": other} in map(json.loads, lines)
    assert npt("aliases", "delete", "moving", "-y", NPT_URL=api.url).returncode == 0
    assert npt("models", "show", "moving", NPT_URL=api.url).returncode == 1


def test_more_aliases_than_a_page(api: Api, model: str) -> None:
    names = [f"many-{n:03d}" for n in range(105)]
    for name in names:
        api.services.aliases.put(name, model)
    try:
        found = npt("aliases", "list", NPT_URL=api.url).stdout
        assert all(name in found for name in names)
        assert npt("models", "show", names[-1], NPT_URL=api.url).returncode == 0
    finally:
        for name in names:
            api.services.aliases.delete(name)


def test_data_sets_from_a_folder(api: Api, pictures: Path, working: None) -> None:
    added = npt("datasets", "add", pictures, "--wait", NPT_URL=api.url)
    assert added.returncode == 0, added.stderr
    dataset = added.stdout.strip()
    assert "12 images, 3 classes: blue, green, red" in added.stderr
    assert dataset in npt("datasets", "list", NPT_URL=api.url).stdout
    shown = npt("datasets", "show", dataset, NPT_URL=api.url)
    assert "audit done" in shown.stdout
    assert [line.split()[:2] for line in shown.stdout.splitlines() if line.startswith("blue")] == [["blue", "4"]]
    assert json.loads(npt("datasets", "show", dataset, "--json", NPT_URL=api.url).stdout)["images"] == 12
    wait_for("the audit's job to be over", lambda: api.services.jobs.uses(dataset) is None)
    assert npt("datasets", "delete", dataset, "-y", NPT_URL=api.url).returncode == 0
    assert npt("datasets", "show", dataset, NPT_URL=api.url).returncode == 1


def test_jobs_are_listed_shown_and_their_results_fetched(
    api: Api, model: str, pictures: Path, tmp_path: Path, working: None
) -> None:
    from app.client import Client

    with Client(api.url) as client:
        job = client.predict_batch(pictures, model=model)
        job.wait(120)
    listed = npt("jobs", "list", "--status", "succeeded", NPT_URL=api.url)
    assert job.id in listed.stdout
    assert "predict" in npt("jobs", "show", job.id, NPT_URL=api.url).stdout
    assert json.loads(npt("jobs", "show", job.id, "--json", NPT_URL=api.url).stdout)["status"] == "succeeded"
    for name, first in (("r.csv", "filename,model"), ("r.jsonl", '{"filename"')):
        done = npt("jobs", "results", job.id, "-o", tmp_path / name, NPT_URL=api.url)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / name).read_text().startswith(first)
    unknown = npt("jobs", "show", "job_" + "0" * 26, NPT_URL=api.url)
    assert unknown.returncode == 1
    assert "no job" in unknown.stderr


def test_where_the_server_wants_a_key(make_settings, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    settings = make_settings(backbone="demo")
    _, secret = KeyRepository(LocalStore(settings.data_dir)).create(Wanted(scopes=("predict",)), by="test")
    with running_api(settings) as api:
        refused = npt("models", "list", NPT_URL=api.url)
        assert refused.returncode == 1
        assert "NPT_API_KEY or --key" in refused.stderr
        assert npt("models", "list", NPT_URL=api.url, NPT_API_KEY=secret).returncode == 0
        forbidden = npt("models", "delete", "model_" + "0" * 26, "-y", "--key", secret, NPT_URL=api.url)
        assert forbidden.returncode == 1
        assert "scope" in forbidden.stderr
        assert secret not in forbidden.stderr
