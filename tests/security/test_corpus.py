"""Every upload of the corpus, sent to a real service: the right answer, memory and disk bounded, nothing left."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from tests.security.conftest import ROOM_BYTES, Target
from tests.security.corpus.case import GOOD, PREDICT, Case
from tests.security.corpus.every import EVERY, FAMILIES, SENT
from tests.security.record import PAGE, Answered
from tests.security.soon import Timed, soon, timed
from tests.support.service import wait_for
from tests.support.zips import picture, raw_zip

HOSTILE = ("names", "entries", "directories", "bombs")
"""Families of zips that no route takes, whatever it wants of a zip."""

QUESTION = {"model": "zero-shot", "labels": '["a red circle", "a blue square"]'}


def kept(target: Target) -> list[str]:
    """Ids of everything that is stored."""
    kinds = ("datasets", "models", "jobs")
    return [one["id"] for kind in kinds for one in target.client.get(f"/{kind}?limit=200").json()["items"]]


@pytest.fixture(scope="module", autouse=True)
def kept_at_first(target: Target) -> list[str]:
    return kept(target)


@pytest.fixture(scope="module")
def warm(target: Target) -> Target:
    """Torch and the towers are in memory: what is taken from here on is an upload's."""
    answer = target.client.post(PREDICT, content=picture(1), headers={"Content-Type": "image/png"})
    assert answer.status_code == 200, answer.text
    return target


@pytest.mark.parametrize("case", EVERY, ids=lambda case: case.name)
def test_gets_its_answer_and_leaves_nothing(warm: Target, case: Case) -> None:
    body = case.make()
    headers = dict(case.headers) | ({"Content-Type": case.content_type} if case.content_type else {})
    files, taken = warm.files(), 0

    def ask() -> Timed:
        nonlocal taken
        before = warm.forget_peak()
        got = timed(lambda: warm.client.post(case.path, content=body, headers=headers))
        _judge(case, got.answer, str(warm.service.data))
        wait_for("nothing to be left of it", lambda: warm.files() == files, 30)
        taken = max(taken, warm.peak_bytes() - before)
        assert taken < ROOM_BYTES, f"{taken:,} bytes of memory"
        return got

    best, tries = soon(ask)
    Answered(case.name, case.status, case.code, best.seconds, taken, tries).write()


def _judge(case: Case, answer: httpx.Response, private: str) -> None:
    """The right answer, in the right form, and nothing in it that is nobody's business."""
    told = answer.text
    assert (answer.status_code, _code(answer)) == (case.status, case.code), told[:2000]
    assert case.says in told, told[:2000]
    assert "Traceback" not in told
    assert private not in told
    if case.code:
        problem = answer.json()
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem["type"] == f"/problems/{case.code}"
        assert problem["detail"]


def _code(answer: httpx.Response) -> str:
    return "" if answer.is_success else str(answer.json()["code"])


def test_the_service_is_as_well_as_before(warm: Target, kept_at_first: list[str]) -> None:
    assert warm.client.get("/livez").status_code == 200
    assert warm.client.get("/readyz").status_code == 200
    assert warm.client.post(PREDICT, content=picture(1), headers={"Content-Type": "image/png"}).status_code == 200
    assert warm.api.is_running()  # the very process that was there at the beginning
    assert kept(warm) == kept_at_first


@pytest.fixture(scope="module")
def dataset(target: Target) -> Iterator[str]:
    """A data set to add to."""
    answer = target.client.post("/datasets?audit=false", files={"file": ("good.zip", raw_zip(GOOD))})
    assert answer.status_code == 201, answer.text
    yield answer.json()["id"]
    assert target.client.delete(f"/datasets/{answer.json()['id']}").status_code == 204


@pytest.mark.parametrize("family", HOSTILE)
@pytest.mark.parametrize("route", ["tune", "edit", "batch", "import"])
def test_every_route_that_takes_a_zip_judges_it(target: Target, dataset: str, route: str, family: str) -> None:
    case, files = FAMILIES[family][0], target.files()
    path, field, form = {
        "tune": ("/tune", "dataset", {}),
        "edit": (f"/datasets/{dataset}/edit", "file", {}),
        "batch": ("/predict/batch", "file", QUESTION),
        "import": ("/models/import", "file", {}),
    }[route]
    body = case.make()
    got, _ = soon(lambda: timed(lambda: target.client.post(path, files={field: ("x.zip", body)}, data=form)))
    answer = got.answer
    assert answer.headers["content-type"] == "application/problem+json"
    if route == "import" and family == "bombs":  # a model's members have limits by name
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid-model")
    else:
        assert (answer.status_code, answer.json()["code"]) == (case.status, case.code), answer.text
        assert case.says in answer.text
    wait_for("nothing to be left of it", lambda: target.files() == files, 30)


def test_the_corpus_is_large_and_every_name_in_it_its_own() -> None:
    assert len([case for case in EVERY if 400 <= case.status < 500]) >= 200
    assert [name for name, count in Counter(case.name for case in EVERY).items() if count > 1] == []


def test_the_documents_say_what_is_in_it() -> None:
    rows = re.findall(r"^\| ([a-z]+) \| (\d+) \| ([^|]+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    told = {family: (int(count), sent) for family, count, sent in rows}
    assert {family: told.get(family) for family in FAMILIES} == {
        family: (len(cases), SENT[family]) for family, cases in FAMILIES.items()
    }
