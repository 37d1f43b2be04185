"""POST /predict and aliases: how sure an answer is, when it is rejected, and for which class frequencies."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.api import Api, encoded, png, store_model
from tests.support.pictures import picture

STORED = {"temperature": 2.5, "count": 40, "source": "held-out", "reject_below": 0.4}
EVEN = {"red": 1, "green": 1, "blue": 1}
UNEVEN = {"red": 90, "green": 9, "blue": 1}


@pytest.fixture(scope="module")
def plain(api: Api, towers: tuple[str, str]) -> str:
    return store_model(api.services, towers[0], name="plain")


@pytest.fixture(scope="module")
def sure(api: Api, towers: tuple[str, str]) -> str:
    """The same model with a temperature and a threshold of its own."""
    return store_model(api.services, towers[0], name="sure", calibration=STORED)


def ask(api: Api, model: Any, status: int = 200, **fields: Any) -> dict[str, Any]:
    answer = api.client.post("/predict", files={"images": ("a.png", png())}, data={"model": model, **fields})
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    return body


def point(api: Api, alias: str, model: str, status: int = 200, **more: Any) -> dict[str, Any]:
    answer = api.client.put(f"/aliases/{alias}", json={"model": model, **more})
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    return body


def shares(answer: dict[str, Any]) -> dict[str, float]:
    return {one["label"]: one["probability"] for one in answer["predictions"][0]["top"]}


def terms(answer: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(answer.get(name) for name in ("reject_below", "reject_below_from", "priors_applied", "priors_from"))


class TestCalibrated:
    def test_the_temperature_softens_and_keeps_the_order(self, api: Api, plain: str, sure: str) -> None:
        cold, warm = ask(api, plain), ask(api, sure)
        assert (cold["calibrated"], cold["temperature"]) == (False, 1.0)
        assert (warm["calibrated"], warm["temperature"]) == (True, 2.5)
        assert list(shares(cold)) == list(shares(warm))
        powers = {label: share ** (1 / 2.5) for label, share in shares(cold).items()}
        expected = {label: power / sum(powers.values()) for label, power in powers.items()}
        assert shares(warm) == pytest.approx(expected, abs=1e-5)
        for one, other in zip(cold["predictions"][0]["top"], warm["predictions"][0]["top"], strict=True):
            assert one["similarity"] == other["similarity"]

    def test_new_names_and_zero_shot_are_not(self, api: Api, sure: str) -> None:
        assert ask(api, sure, labels='["red", "blue"]')["calibrated"] is True
        new = ask(api, sure, labels='["red", "mauve"]')
        assert (new["calibrated"], new["temperature"]) == (False, 2.5)
        zero = ask(api, "zero-shot", labels='["red", "blue"]')
        assert (zero["calibrated"], zero["temperature"]) == (False, 1.0)


class TestRejecting:
    def test_request_before_alias_before_model(self, api: Api, plain: str, sure: str) -> None:
        assert terms(ask(api, plain))[:2] == (0, "default")
        assert terms(ask(api, sure))[:2] == (0.4, "model")
        point(api, "strict", sure, reject_below=0.999)
        answer = ask(api, "strict")
        assert terms(answer)[:2] == (0.999, "alias")
        assert answer["predictions"][0]["rejected"] is True
        answer = ask(api, "strict", reject_below="0")
        assert terms(answer)[:2] == (0, "request")
        assert answer["predictions"][0]["rejected"] is False
        point(api, "strict", sure, reject_below=None)
        assert terms(ask(api, "strict"))[:2] == (0.4, "model")

    def test_an_alias_may_say_that_nothing_is_rejected(self, api: Api, sure: str) -> None:
        point(api, "lenient", sure, reject_below=0)
        assert terms(ask(api, "lenient"))[:2] == (0, "alias")


class TestPriors:
    def test_adjust_and_say_so(self, api: Api, sure: str) -> None:
        before = ask(api, sure)
        assert terms(before)[2:] == (False, None)
        after = ask(api, sure, priors=json.dumps(UNEVEN))
        assert terms(after)[2:] == (True, "request")
        weighted = {label: share * UNEVEN[label] for label, share in shares(before).items()}
        expected = {label: weight / sum(weighted.values()) for label, weight in weighted.items()}
        assert shares(after) == pytest.approx(expected, abs=1e-5)

    def test_even_ones_change_nothing(self, api: Api, sure: str) -> None:
        assert shares(ask(api, sure, priors=json.dumps(EVEN))) == pytest.approx(shares(ask(api, sure)), abs=1e-6)

    def test_a_class_that_does_not_occur(self, api: Api, sure: str) -> None:
        best = ask(api, sure)["predictions"][0]["top"][0]["label"]
        found = shares(ask(api, sure, priors=json.dumps(EVEN | {best: 0})))
        assert found[best] == 0
        assert sum(found.values()) == pytest.approx(1, abs=1e-5)
        assert next(iter(found)) != best

    def test_of_zero_shot_and_of_new_names(self, api: Api, sure: str) -> None:
        stated = {"labels": '["red", "mauve"]', "priors": '{"mauve": 3, "red": 1}'}
        for model in (sure, "zero-shot"):
            before, after = shares(ask(api, model, labels=stated["labels"])), shares(ask(api, model, **stated))
            weighted = {"red": before["red"], "mauve": 3 * before["mauve"]}
            assert after["red"] == pytest.approx(weighted["red"] / sum(weighted.values()), abs=1e-5)

    def test_in_the_query_of_a_raw_image(self, api: Api, sure: str) -> None:
        answer = api.client.post(
            "/predict",
            params={"model": sure, "priors": json.dumps(UNEVEN), "reject_below": "1"},
            content=encoded(picture((200, 30, 30), 3)),
            headers={"Content-Type": "image/png"},
        )
        assert answer.status_code == 200, answer.text
        assert terms(answer.json()) == (1, "request", True, "request")

    def test_of_an_alias(self, api: Api, sure: str) -> None:
        point(api, "shop", sure, priors=UNEVEN)
        by_alias, by_request = ask(api, "shop"), ask(api, sure, priors=json.dumps(UNEVEN))
        assert terms(by_alias)[2:] == (True, "alias")
        assert shares(by_alias) == shares(by_request)
        off = ask(api, "shop", priors="null")
        assert terms(off)[2:] == (False, None)
        assert shares(off) == shares(ask(api, sure))
        other = ask(api, "shop", priors=json.dumps(EVEN))
        assert terms(other)[2:] == (True, "request")

    @pytest.mark.parametrize(
        ("priors", "path", "says"),
        [
            ("nonsense", "priors", "must be an object"),
            ("[1, 2]", "priors", "must be an object"),
            ("{}", "priors", "must be an object"),
            ('{"red": -1, "green": 1, "blue": 1}', "priors.red", "from 0"),
            ('{"red": NaN, "green": 1, "blue": 1}', "priors.red", "is nan"),
            ('{"red": Infinity, "green": 1, "blue": 1}', "priors.red", "is inf"),
            ('{"red": "1", "green": 1, "blue": 1}', "priors.red", "is 1"),
            ('{"red": 0, "green": 0, "blue": 0}', "priors", "are all 0"),
            ('{"red": 1}', "priors", "do not name 'green', 'blue'"),
            ('{"red": 1, "green": 1, "blue": 1, "mauve": 1}', "priors", "name 'mauve'"),
        ],
    )
    def test_that_cannot_be(self, api: Api, sure: str, priors: str, path: str, says: str) -> None:
        body = ask(api, sure, priors=priors, status=422)
        assert any(one["path"] == path and says in one["message"] for one in body["errors"]), body

    def test_that_fit_one_model_and_not_the_other_name_the_other(self, api: Api, sure: str, towers: Any) -> None:
        two = json.dumps({"red": 1, "mauve": 2})
        body = ask(api, [sure], priors=two, status=422)
        assert sure in body["detail"]
        answer = ask(api, [sure, "zero-shot"], priors=two, labels='["red", "mauve"]')
        assert [terms(one)[2] for one in answer["results"]] == [True, True]
        point(api, "three", sure, priors=UNEVEN)
        body = ask(api, ["zero-shot", "three"], labels='["red", "mauve"]', status=422)
        assert "that the alias states do not fit what three answers with" in body["detail"]
        assert "priors=null" in body["detail"]
        assert ask(api, ["zero-shot", "three"], labels='["red", "mauve"]', priors="null")["results"]


class TestAlias:
    def test_keeps_its_terms_when_it_moves(self, api: Api, plain: str, sure: str) -> None:
        made = point(api, "kept", plain, priors=UNEVEN, reject_below=0.3)
        assert (made["priors"], made["reject_below"]) == (UNEVEN, 0.3)
        moved = point(api, "kept", sure)
        assert (moved["model"], moved["previous"]) == (sure, plain)
        assert (moved["priors"], moved["reject_below"]) == (UNEVEN, 0.3)
        back = point(api, "kept", moved["previous"])
        assert (back["model"], back["priors"]) == (plain, UNEVEN)
        gone = point(api, "kept", plain, priors=None, reject_below=None)
        assert (gone["priors"], gone["reject_below"], gone["previous"]) == (None, None, sure)
        listed = {one["alias"]: one for one in api.client.get("/aliases").json()["items"]}
        assert listed["kept"] == gone

    @pytest.mark.parametrize(
        "more",
        [
            {"priors": {"red": 1}},
            {"priors": {**EVEN, "mauve": 1}},
            {"priors": {"red": -1, "green": 1, "blue": 1}},
            {"priors": {"red": 0, "green": 0, "blue": 0}},
            {"priors": {"red": True, "green": 1, "blue": 1}},
            {"priors": {"red": "1", "green": 1, "blue": 1}},
            {"priors": {}},
            {"priors": [1, 2, 3]},
            {"reject_below": 1.5},
            {"reject_below": -0.1},
            {"reject_below": "0.5"},
            {"reject_below": True},
        ],
    )
    def test_terms_that_cannot_be_leave_it_as_it_was(self, api: Api, sure: str, more: dict[str, Any]) -> None:
        before = point(api, "firm", sure, priors=EVEN)
        point(api, "firm", sure, status=422, **more)
        assert {one["alias"]: one for one in api.client.get("/aliases").json()["items"]}["firm"] == before

    def test_priors_that_do_not_fit_the_next_model_stop_the_move(
        self, api: Api, sure: str, towers: tuple[str, str]
    ) -> None:
        point(api, "stays", sure, priors=EVEN)
        other = store_model(api.services, towers[0], name="other", labels=("red", "mauve"))
        body = point(api, "stays", other, status=422)
        assert "They are those the alias has: send others with the model, or null" in body["detail"]
        assert ask(api, "stays")["model"] == sure
        assert point(api, "stays", other, priors={"red": 1, "mauve": 3})["model"] == other
