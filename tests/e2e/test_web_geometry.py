"""The geometry of the classes in the browser: live from the event stream, again after a reload, and in the result."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.browser import running_browser
from tests.support.service import Service
from tests.support.web import at, pictures_of_digits, send_zip, start_tuning, until, zipped

pytestmark = pytest.mark.browser
DOTS = "[...document.querySelectorAll('.plane .dot')].map(o => o.style.transform.match(/-?[\\d.]+/g).map(Number))"
LAST_MOMENT = "document.querySelector('.geometry input[type=range]')?.value"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with running_browser() as running:
        yield running


def events(service: Service, job: str) -> list[dict[str, Any]]:
    """The geometry events of a job that ended."""
    text = service.client.get(f"/jobs/{job}/events", headers={"Last-Event-ID": "0-0"}).text
    blocks = [block.split("\n") for block in text.replace("\r", "").split("\n\n")]
    told = [{line.partition(": ")[0]: line.partition(": ")[2] for line in block} for block in blocks]
    return [json.loads(one["data"]) for one in told if one.get("event") == "geometry"]


def test_the_picture_follows_the_stream_and_every_moment_can_be_seen_again(service: Service, browser: Any) -> None:
    with at(browser, service) as seen:
        page = seen.page
        send_zip(page, zipped(pictures_of_digits("02468", 5)))
        job = start_tuning(page, {"epochs": 6, "views": 1})
        page.locator("#result").wait_for()
        told = events(service, job)
        assert [(one["stage"], one["epoch"]) for one in told] == [
            (stage, epoch) for stage in ("held-out", "all images") for epoch in range(7)
        ]
        until(page, f"{LAST_MOMENT} === '{len(told) - 1}'")
        assert page.locator(".moment").inner_text() == "all images, epoch 6"
        assert page.evaluate(DOTS) == [[x, -y] for x, y in told[-1]["picture"]["points"]]
        assert page.locator(".plane text").all_text_contents() == ["0", "2", "4", "6", "8"]
        assert page.locator(".heat rect").count() == 25
        page.locator(".geometry input[type=range]").focus()
        page.keyboard.press("Home")
        until(page, "document.querySelector('.moment').textContent === 'held-out, epoch 0'")
        assert page.evaluate(DOTS) == [[x, -y] for x, y in told[0]["picture"]["points"]]
        value = told[0]["picture"]["cosines"][0][1]
        title = page.evaluate("document.querySelectorAll('.heat rect')[1].querySelector('title').textContent")
        assert title == f"0 and 2: {value:.2f}"

        page.reload()
        until(page, f"{LAST_MOMENT} === '{len(told) - 1}'")

        page.get_by_role("link", name="The model", exact=True).click()
        page.locator("#geometry .moment").wait_for()
        assert page.locator("#geometry .moment").inner_text() == "tuned"
        pictures = service.client.get(f"/models/{service.job(job)['model_id']}/report").json()["geometry"]["pictures"]
        assert pictures["initial"] == told[7]["picture"]  # the shipped one is that of all images
        assert page.evaluate(DOTS) == [[x, -y] for x, y in pictures["tuned"]["points"]]


def test_a_method_without_text_features_has_no_picture(service: Service, browser: Any) -> None:
    job = service.tune(zipped(pictures_of_digits("135", 5)), {"method": "linear_probe", "views": 1}).json()["id"]
    service.wait_for_status(job, "succeeded")
    with at(browser, service, f"#/jobs/{job}") as seen:
        seen.page.locator("#result").wait_for()
        assert seen.page.locator(".geometry").is_hidden()
