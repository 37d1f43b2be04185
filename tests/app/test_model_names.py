"""Versions and aliases over HTTP."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.api import Api, png, store_model

GHOST = "model_" + "0" * 26


@pytest.fixture(scope="module")
def versions(api: Api, towers: tuple[str, str]) -> list[str]:
    """Three models of one name, of different answers."""
    return [store_model(api.services, towers[0], name="versioned", n_ctx=n) for n in (1, 2, 3)]


def point(api: Api, alias: str, model: str, status: int = 200) -> dict[str, Any]:
    answer = api.client.put(f"/aliases/{alias}", json={"model": model})
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    return body


def ask(api: Api, model: str | list[str], status: int = 200) -> dict[str, Any]:
    answer = api.client.post("/predict", files={"images": ("a.png", png())}, data={"model": model})
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    return body


def best(answer: dict[str, Any]) -> float:
    probability: float = answer["predictions"][0]["top"][0]["probability"]
    return probability


class TestVersions:
    def test_count_within_the_name(self, api: Api, versions: list[str]) -> None:
        found = [api.client.get(f"/models/{model}").json() for model in versions]
        assert [(one["name"], one["version"]) for one in found] == [("versioned", n) for n in (1, 2, 3)]

    def test_are_listed_newest_first_in_pages(self, api: Api, versions: list[str]) -> None:
        page = api.client.get("/models", params={"name": "versioned", "limit": 2}).json()
        rest = api.client.get("/models", params={"name": "versioned", "cursor": page["next_cursor"]}).json()
        assert [one["id"] for one in page["items"] + rest["items"]] == versions[::-1]
        assert rest["next_cursor"] is None
        assert api.client.get("/models", params={"name": "no such"}).json() == {"items": [], "next_cursor": None}

    def test_lineage_says_what_it_was_made_from(self, api: Api, towers: tuple[str, str], versions: list[str]) -> None:
        record = api.services.models.get(versions[0])
        folder = api.services.store.path("jobs/child")
        child = store_model(api.services, towers[0], name="child")
        source = api.services.models.folder(child)
        folder.mkdir(parents=True)
        for path in source.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        api.services.models.delete(child)
        draft = record.model_copy(update={"parent": record.id, "dataset_id": "a" * 64}).model_dump()
        for fact in ("id", "job_id", "created_at", "owner", "version", "content", "imported", "files"):
            draft.pop(fact)
        from worker.records import ModelDraft

        api.services.models.prepare(folder, ModelDraft(**draft), model_id=child, job_id=None)
        assert api.services.models.promote("jobs/child", child)
        lineage = api.client.get(f"/models/{child}").json()["lineage"]
        assert lineage["ancestors"] == [{"id": record.id, "present": True, "name": "versioned", "version": 1}]
        assert (lineage["dataset_id"], lineage["imported"]) == ("a" * 64, None)
        assert lineage["config"] == {}  # this one was not tuned
        assert api.client.delete(f"/models/{child}").status_code == 204


class TestAliases:
    def test_publish_and_roll_back(self, api: Api, versions: list[str]) -> None:
        first, second, _ = versions
        made = point(api, "champion", first)
        assert (made["alias"], made["model"], made["previous"]) == ("champion", first, None)
        before = ask(api, "champion")
        assert (before["model"], before["alias"]) == (first, "champion")
        assert point(api, "champion", second)["previous"] == first
        assert ask(api, "champion")["model"] == second
        assert ask(api, "champion")["predictions"] == ask(api, second)["predictions"] != before["predictions"]
        assert point(api, "champion", first)["previous"] == second
        assert ask(api, "champion")["predictions"] == before["predictions"]
        assert "alias" not in ask(api, first)
        assert api.client.get(f"/models/{first}").json()["aliases"] == ["champion"]

    def test_an_alias_beside_the_model_it_points_to(self, api: Api, versions: list[str]) -> None:
        point(api, "candidate", versions[2])
        found = ask(api, ["candidate", versions[2], versions[0]])["results"]
        assert [(one["model"], one.get("alias")) for one in found] == [
            (versions[2], "candidate"),
            (versions[2], None),
            (versions[0], None),
        ]
        assert found[0]["predictions"] == found[1]["predictions"]

    def test_are_listed_and_deleted(self, api: Api, versions: list[str]) -> None:
        for name in ("list-b", "list-a"):
            point(api, name, versions[0])
        page = api.client.get("/aliases", params={"limit": 200}).json()
        names = [one["alias"] for one in page["items"]]
        assert names == sorted(names)
        assert {"list-a", "list-b"} <= set(names)
        assert api.client.delete("/aliases/list-a").status_code == 204
        assert api.client.delete("/aliases/list-a").status_code == 404
        assert ask(api, "list-a", status=404)["code"] == "unknown-model"
        assert api.client.delete("/aliases/list-b").status_code == 204

    def test_keep_their_model(self, api: Api, versions: list[str], towers: tuple[str, str]) -> None:
        model = store_model(api.services, towers[0])
        point(api, "keeper", model)
        answer = api.client.delete(f"/models/{model}")
        assert answer.status_code == 409
        assert answer.headers["content-type"] == "application/problem+json"
        assert "'keeper'" in answer.json()["detail"]
        assert api.client.delete("/aliases/keeper").status_code == 204
        assert api.client.delete(f"/models/{model}").status_code == 204

    @pytest.mark.parametrize("alias", ["Champion", "a%20b", "..%2Fx", "zero-shot", GHOST, "%0a", "x" * 64, "-x"])
    def test_are_plain_words(self, api: Api, versions: list[str], alias: str) -> None:
        answer = api.client.put(f"/aliases/{alias}", json={"model": versions[0]})
        assert answer.status_code in (404, 422), answer.text  # a slash is another path
        assert answer.headers["content-type"] == "application/problem+json"
        assert alias not in [one["alias"] for one in api.client.get("/aliases").json()["items"]]

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"model": 3}', b'{"model": "x", "more": 1}', b'"x"'])
    def test_need_a_body_that_names_a_model(self, api: Api, body: bytes) -> None:
        answer = api.client.put("/aliases/a", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, answer.text
        assert answer.json()["code"] == "invalid-request"

    @pytest.mark.parametrize("model", [GHOST, "champion", "zero-shot", "../x"])
    def test_need_a_model_that_is_there(self, api: Api, versions: list[str], model: str) -> None:
        point(api, "champion", versions[0])
        assert point(api, "other", model, status=404)["code"] == "not-found"

    def test_no_request_sees_neither_of_two_models(self, api: Api, versions: list[str]) -> None:
        """An alias that moves while many ask: each gets the one or the other, whole."""
        point(api, "moving", versions[0])
        answers = {model: best(ask(api, model)) for model in versions[:2]}
        assert abs(answers[versions[0]] - answers[versions[1]]) > 1e-3

        def one(number: int) -> None:
            if number % 4 == 0:
                point(api, "moving", versions[number // 4 % 2])
                return
            found = ask(api, "moving")
            assert best(found) == pytest.approx(answers[found["model"]], abs=1e-5)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, range(64)))
