"""Edits, images and audits of data sets over HTTP. No worker runs here: audits wait in a real queue."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.support.api import Api, archive, coloured_zip, png

ZIP = {"Content-Type": "application/zip"}
SEEDS = iter(range(10_000, 1_000_000, 100))


@pytest.fixture
def stored(plain: Api) -> dict[str, Any]:
    """A fresh data set of three colours, three images each."""
    answer = plain.client.post(
        "/datasets", content=coloured_zip(3, first_seed=next(SEEDS)), headers=ZIP, params={"audit": "false"}
    )
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


def edit(plain: Api, dataset: dict[str, Any], **options: Any) -> httpx.Response:
    return plain.client.post(f"/datasets/{dataset['id']}/edit", **options)


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == code
    body: dict[str, Any] = answer.json()
    return body


class TestEdit:
    def test_json_removes_and_relabels(self, plain: Api, stored: dict[str, Any]) -> None:
        answer = edit(plain, stored, json={"remove": ["red/0.png"], "relabel": {"red/1.png": "blue"}})
        assert answer.status_code == 201, answer.text
        body = answer.json()
        assert answer.headers["location"] == f"/datasets/{body['id']}"
        assert body["parent"] == stored["id"]
        assert body["change"] == {"removed": 1, "relabelled": 1, "added": 0, "known": 0}
        assert body["splits"] == {"train": {"blue": 4, "green": 3, "red": 1}}
        assert plain.client.get(f"/datasets/{body['id']}").json() == body
        assert plain.client.get(f"/datasets/{stored['id']}").json() == stored
        again = edit(plain, stored, json={"remove": ["red/0.png"], "relabel": {"red/1.png": "blue"}})
        assert (again.status_code, again.json()["id"]) == (200, body["id"])

    def test_a_form_changes_and_adds_and_a_raw_zip_adds(self, plain: Api, stored: dict[str, Any]) -> None:
        more = archive({"yellow/0.png": png("yellow", 1), "yellow/1.png": png("yellow", 2)})
        form = {"data": {"edit": json.dumps({"remove": ["red/0.png"]})}, "files": {"file": ("more.zip", more)}}
        answer = plain.client.post(f"/v1/datasets/{stored['id']}/edit", **form)
        assert answer.status_code == 201, answer.text
        body = answer.json()
        assert answer.headers["location"] == f"/v1/datasets/{body['id']}"
        assert body["filename"] == "more.zip"
        assert body["change"] == {"removed": 1, "relabelled": 0, "added": 2, "known": 0}
        raw = edit(plain, stored, content=more, headers=ZIP, params={"filename": "raw.zip"}).json()
        assert (raw["images"], raw["filename"], raw["parent"]) == (11, "raw.zip", stored["id"])
        assert not plain.parts()

    def test_every_fault_is_listed(self, plain: Api, stored: dict[str, Any]) -> None:
        body = refused(
            edit(plain, stored, json={"remove": ["a.png", "../../b.png"], "relabel": {"red/0.png": ""}}),
            422,
            "invalid-edit",
        )
        assert {error["path"] for error in body["errors"]} == {"a.png", "../../b.png", "red/0.png"}

    @pytest.mark.parametrize(
        ("options", "status", "code"),
        [
            ({"json": {}}, 422, "invalid-edit"),
            ({"json": {"remove": "red/0.png"}}, 422, "invalid-edit"),
            ({"json": {"delete": ["red/0.png"]}}, 422, "invalid-edit"),
            ({"json": {"relabel": {"red/0.png": 3}}}, 422, "invalid-edit"),
            ({"json": []}, 422, "invalid-edit"),
            (
                {"content": b'{"remove": ["\\ud800"]}', "headers": {"Content-Type": "application/json"}},
                422,
                "invalid-edit",
            ),
            ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "malformed-request"),
            ({"content": b"\xff", "headers": {"Content-Type": "application/json"}}, 400, "malformed-request"),
            ({"content": b"[" * 100_000, "headers": {"Content-Type": "application/json"}}, 400, "malformed-request"),
            ({"content": b" " * (17 << 20), "headers": {"Content-Type": "application/json"}}, 413, "too-large"),
            ({"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "unsupported-media-type"),
            ({"data": {"edits": "{}"}}, 422, "invalid-request"),
            ({"data": {"file": "no file"}}, 422, "invalid-request"),
            ({"data": {"edit": "{"}}, 400, "malformed-request"),
            ({"files": {"other": ("a.zip", b"x")}}, 422, "invalid-request"),
            ({"files": {"file": ("a.zip", b"no zip")}}, 422, "invalid-archive"),
            ({"files": {"file": ("a.zip", archive({"../a.png": png()}))}}, 422, "invalid-archive"),
            ({"files": {"file": ("a.zip", archive({"red/a.txt": b"text"}))}}, 422, "unusable-dataset"),
        ],
    )
    def test_what_cannot_be_an_edit_is_refused_and_nothing_is_left(
        self, plain: Api, stored: dict[str, Any], options: dict[str, Any], status: int, code: str
    ) -> None:
        before = len(plain.client.get("/datasets", params={"limit": 200}).json()["items"])
        refused(edit(plain, stored, **options), status, code)
        assert len(plain.client.get("/datasets", params={"limit": 200}).json()["items"]) == before
        assert not plain.parts()

    def test_an_edit_of_nothing_is_a_404(self, plain: Api) -> None:
        for dataset_id in ("0" * 64, "..", "x"):
            answer = plain.client.post(f"/datasets/{dataset_id}/edit", json={"remove": ["a"]})
            assert answer.status_code == 404

    def test_too_little_left_is_unusable(self, plain: Api, stored: dict[str, Any]) -> None:
        gone = [f"{colour}/{n}.png" for colour in ("red", "green") for n in range(3)]
        body = refused(edit(plain, stored, json={"remove": gone}), 422, "unusable-dataset")
        assert "blue" in body["detail"]

    def test_the_change_is_told_image_by_image(self, plain: Api, stored: dict[str, Any]) -> None:
        more = archive({"red/new.png": png("red", next(SEEDS))})
        child = edit(
            plain,
            stored,
            data={"edit": json.dumps({"remove": ["red/0.png"], "relabel": {"red/1.png": "blue"}})},
            files={"file": ("m.zip", more)},
        ).json()
        change = plain.client.get(f"/datasets/{child['id']}/change").json()
        assert change["parent"] == stored["id"]
        assert [one["path"] for one in change["removed"]] == ["red/0.png"]
        assert [(one["path"], one["was"], one["label"]) for one in change["relabelled"]] == [
            ("red/1.png", "red", "blue")
        ]
        assert [one["path"] for one in change["added"]] == ["red/new.png"]
        refused(plain.client.get(f"/datasets/{stored['id']}/change"), 404, "not-found")

    def test_the_parent_may_go_and_the_child_stays(self, plain: Api, stored: dict[str, Any]) -> None:
        child = edit(plain, stored, json={"remove": ["red/0.png"]}).json()
        assert plain.client.delete(f"/datasets/{stored['id']}").status_code == 204
        assert plain.client.get(f"/datasets/{child['id']}").json()["parent"] == stored["id"]
        job = plain.client.post("/tune", data={"dataset_id": child["id"]})
        assert job.status_code == 202, job.text
        refused(plain.client.delete(f"/datasets/{child['id']}"), 409, "conflict")
        plain.client.post(f"/jobs/{job.json()['id']}/cancel")
        assert plain.client.delete(f"/datasets/{child['id']}").status_code == 204


class TestImages:
    def test_pages_filters_and_names_that_edits_take(self, plain: Api, stored: dict[str, Any]) -> None:
        where = f"/datasets/{stored['id']}/images"
        first = plain.client.get(where, params={"limit": 5}).json()
        rest = plain.client.get(where, params={"limit": 5, "cursor": first["next_cursor"]}).json()
        assert rest["next_cursor"] is None
        paths = [one["path"] for one in first["items"] + rest["items"]]
        assert sorted(paths) == sorted(f"{c}/{n}.png" for c in ("red", "green", "blue") for n in range(3))
        red = plain.client.get(where, params={"label": "red"}).json()["items"]
        assert {one["label"] for one in red} == {"red"}
        assert len(red) == 3
        assert plain.client.get(where, params={"split": "test"}).json() == {"items": [], "next_cursor": None}
        one = red[0]
        assert one["split"] == "train"
        assert one["size_bytes"] > 0
        child = edit(plain, stored, json={"remove": [one["sha256"]]}).json()
        assert child["change"]["removed"] == 1

    def test_a_strange_cursor_is_refused(self, plain: Api, stored: dict[str, Any]) -> None:
        for cursor in ("x", "-1", "²"):
            answer = plain.client.get(f"/datasets/{stored['id']}/images", params={"cursor": cursor})
            refused(answer, 422, "invalid-request")
        assert plain.client.get(f"/datasets/{'0' * 64}/images").status_code == 404


class TestAudit:
    def test_an_upload_starts_one_job_that_the_data_set_names(self, plain: Api) -> None:
        data = coloured_zip(3, first_seed=next(SEEDS))
        body = plain.client.post("/datasets", content=data, headers=ZIP).json()
        assert body["audit"]["status"] == "queued"
        job = plain.client.get(f"/jobs/{body['audit']['job_id']}").json()
        assert (job["kind"], job["dataset_id"]) == ("audit", body["id"])
        again = plain.client.post("/datasets", content=data, headers=ZIP)
        assert again.json()["audit"] == body["audit"]
        asked = plain.client.post(f"/datasets/{body['id']}/audit")
        assert (asked.status_code, asked.json()["id"]) == (202, job["id"])
        assert asked.headers["location"] == f"/jobs/{job['id']}"
        assert plain.client.delete(f"/datasets/{body['id']}").status_code == 204
        assert plain.client.get(f"/jobs/{job['id']}").json()["status"] == "cancelled"

    def test_it_can_be_declined_and_asked_for_later(self, plain: Api, stored: dict[str, Any]) -> None:
        assert stored["audit"] == {
            "status": "structure",
            "job_id": None,
            "backbone": None,
            "finished_at": None,
            "findings": stored["audit"]["findings"],
        }
        child = edit(plain, stored, json={"remove": ["red/0.png"]}, params={"audit": "false"}).json()
        assert child["audit"]["status"] == "structure"
        job = plain.client.post(f"/datasets/{child['id']}/audit", params={"backbone": "demo"})
        assert job.status_code == 202
        assert job.json()["config"] == {"backbone": "demo"}
        assert plain.client.get(f"/datasets/{child['id']}").json()["audit"]["status"] == "queued"

    def test_an_edit_starts_one_too(self, plain: Api, stored: dict[str, Any]) -> None:
        child = edit(plain, stored, json={"remove": ["red/0.png"]}).json()
        assert child["audit"]["status"] == "queued"

    def test_what_there_is_not_is_refused(self, plain: Api, stored: dict[str, Any]) -> None:
        refused(plain.client.post(f"/datasets/{'0' * 64}/audit"), 404, "not-found")
        answer = plain.client.post(f"/datasets/{stored['id']}/audit", params={"backbone": "../x"})
        refused(answer, 422, "unknown-backbone")
        refused(
            plain.client.post("/datasets", content=b"x", headers=ZIP, params={"audit": "maybe"}), 422, "invalid-request"
        )

    def test_structure_is_judged_in_the_request_with_a_suggestion(self, plain: Api) -> None:
        entries = {f"red/{n}.png": png("red", next(SEEDS)) for n in range(8)} | {"blue/0.png": png("blue", next(SEEDS))}
        body = plain.client.post("/datasets", content=archive(entries), headers=ZIP, params={"audit": "false"}).json()
        found = {one["kind"]: one for one in body["audit"]["findings"]}
        assert found["imbalance"]["suggest"] == {"config": {"logit_adjustment": 1.0}}
        assert found["imbalance"]["items"] == [{"ratio": 8.0, "tau": 0.125}]
