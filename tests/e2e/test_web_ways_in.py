"""Other ways for pictures into the page: dropped files, and the camera, for which Chromium has a pretended one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.browser import running_browser
from tests.support.service import Service
from tests.support.web import at, id_in_address, pictures_of_digits, zipped

pytestmark = pytest.mark.browser

DROP = """([selector, name, type, bytes]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], name, {type}));
    const area = document.querySelector(selector);
    for (const kind of ['dragenter', 'dragover', 'drop'])
        area.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with running_browser("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream") as running:
        yield running


@pytest.fixture(scope="module")
def model(service: Service) -> str:
    files = {"dataset": ("d.zip", zipped(pictures_of_digits("068", 5)), "application/zip")}
    config = json.dumps({"epochs": 1, "views": 1})
    job = service.client.post("/tune", files=files, data={"config": config}).json()["id"]
    return str(service.wait_for_status(job, "succeeded")["model_id"])


def test_a_zip_is_dropped_and_so_is_a_picture(service: Service, browser: Any, model: str) -> None:
    archive = zipped(pictures_of_digits("35", 3, start=30))
    with at(browser, service) as seen:
        page = seen.page
        page.evaluate(DROP, [".drop", "dropped.zip", "application/zip", list(archive)])
        dataset = service.client.get(f"/datasets/{id_in_address(page, 'datasets')}").json()
        assert (dataset["filename"], dataset["images"]) == ("dropped.zip", 6)
        page.goto(f"{service.url}/#/models/{model}")
        page.locator("#try .drop").wait_for()
        picture = next(iter(pictures_of_digits("6", 1, start=12).values()))
        page.evaluate(DROP, ["#try .drop", "6.png", "image/png", list(picture)])
        page.locator(".answer").nth(1).wait_for()


def test_what_is_no_picture_is_not_sent(service: Service, browser: Any) -> None:
    with at(browser, service) as seen:
        page = seen.page
        page.evaluate(DROP, [".drop", "letter.docx", "application/msword", [1, 2, 3]])
        notice = page.locator(".notice.bad")
        notice.wait_for()
        assert "There is no picture in it" in notice.inner_text()
        assert "letter.docx" in notice.inner_text()
        assert not any(url.startswith(f"{service.url}/datasets") for url in seen.requests)


def test_a_picture_from_the_camera(service: Service, browser: Any, model: str) -> None:
    with at(browser, service, f"#/models/{model}") as seen:
        page = seen.page
        page.get_by_role("button", name="Use the camera").click()
        page.get_by_role("button", name="Take the picture").click()
        page.locator(".answer").nth(1).wait_for()
        assert page.locator("video").count() == 0
        assert page.evaluate("document.querySelector('.tried').naturalWidth") > 100


def test_no_camera_is_said(service: Service, browser: Any, model: str) -> None:
    none = """() => {
        navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('none', 'NotFoundError'));
    }"""
    with at(browser, service, f"#/models/{model}") as seen:
        page = seen.page
        page.locator("#try").wait_for()
        page.evaluate(none)  # the browser's answer on a machine that has none
        page.get_by_role("button", name="Use the camera").click()
        notice = page.locator(".camera .notice.bad")
        notice.wait_for()
        assert "There is no camera." in notice.inner_text()
