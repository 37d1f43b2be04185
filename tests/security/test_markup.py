"""Names that somebody else wrote, in the pages a browser shows: they stay words, on the server and in a saved file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.security.conftest import KEY, Target
from tests.support.api import archive, png
from tests.support.browser import running_browser
from tests.support.service import wait_for

pytestmark = pytest.mark.browser

EVIL = (
    "<img src=x onerror=\"window.ran='image'\">",
    "<script>window.ran='script'<\u2215script>",
    "'\"><svg onload=window.ran='svg'>",
    "{{ 7 * 7 }}${window.ran='template'}",
)
FILE = "<iframe srcdoc=\"<script>parent.ran='frame'<&sol;script>\">"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with running_browser() as started:
        yield started


@pytest.fixture(scope="module")
def models(target: Target) -> list[str]:
    """Two models of classes, files and names that are markup; with mistakes, so that files are named in the report."""
    pictures = {
        f"{label}/{FILE}{n}.png": png(("red", "green", "blue", "red")[k], seed=10 * k + n, side=24)
        for k, label in enumerate(EVIL)
        for n in range(6)
    }
    jobs = []
    for seed in range(2):
        answer = target.client.post(
            "/tune",
            files={"dataset": (f"{EVIL[0]}.zip", archive(pictures))},
            data={"config": json.dumps({"epochs": 1, "views": 1, "seed": seed}), "name": f"{EVIL[2]}{seed}"},
        )
        assert answer.status_code == 202, answer.text
        jobs.append(answer.json()["id"])
    return [finished(target, job)["model_id"] for job in jobs]


def finished(target: Target, job: str) -> dict[str, Any]:
    def probe() -> dict[str, Any] | None:
        record = target.client.get(f"/jobs/{job}").json()
        return record if record["status"] in ("succeeded", "failed") else None

    record: dict[str, Any] = wait_for("the job to end", probe, 240)
    assert record["status"] == "succeeded", record["error"]
    return record


def harmless(browser: Any, url: str, *, headers: dict[str, str]) -> str:
    """Open a page, open everything in it, and see that nothing ran; its text."""
    context = browser.new_context(extra_http_headers=headers)
    asked: list[str] = []
    try:
        page = context.new_page()
        page.on("request", lambda one: None if one.url.startswith("data:") else asked.append(one.url))
        page.on("dialog", lambda one: pytest.fail("a dialog was opened"))
        page.goto(url)
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        page.mouse.move(200, 200)
        for element in page.locator("a, summary, svg *").all()[:200]:
            element.dispatch_event("mouseover")
        assert page.evaluate("window.ran") is None
        assert page.locator("script, iframe, object, embed, form, img[src=x], [onerror], [onload], base").count() == 0
        assert [one for one in asked if one != url and not one.endswith("/favicon.ico")] == []
        text: str = page.evaluate("document.documentElement.textContent")
        return text
    finally:
        context.close()


@pytest.mark.slow
def test_the_report_of_a_model_shows_names_as_words(
    target: Target, browser: Any, models: list[str], tmp_path: Path
) -> None:
    address = f"{target.service.url}/models/{models[0]}/report?format=html"
    answer = target.client.get(address)
    assert answer.headers["content-type"].startswith("text/html")
    assert "script-src" not in answer.headers["content-security-policy"]  # default-src 'none' is what holds
    text = harmless(browser, address, headers={"X-API-Key": KEY})
    for name in EVIL:
        assert name in text
    assert "49" not in text.replace("{{ 7 * 7 }}", "").split(EVIL[3])[0][-50:]

    saved = tmp_path / "report.html"  # as somebody keeps it: without the server's headers
    saved.write_bytes(answer.content)
    assert EVIL[0] in harmless(browser, saved.as_uri(), headers={})


@pytest.mark.slow
def test_the_page_of_a_comparison_shows_names_as_words(
    target: Target, browser: Any, models: list[str], tmp_path: Path
) -> None:
    pictures = {
        f"{label}/{FILE}{n}.png": png("yellow", seed=900 + 10 * k + n) for k, label in enumerate(EVIL) for n in range(3)
    }
    answer = target.client.post("/compare", files={"dataset": ("x.zip", archive(pictures))}, data={"model": models})
    assert answer.status_code == 202, answer.text
    job = answer.json()["id"]
    finished(target, job)
    address = f"{target.service.url}/jobs/{job}/comparison?format=html"
    text = harmless(browser, address, headers={"X-API-Key": KEY})
    assert EVIL[0] in text
    assert f"{EVIL[2]}0" in text
    saved = tmp_path / "comparison.html"
    saved.write_bytes(target.client.get(address).content)
    harmless(browser, saved.as_uri(), headers={})


def test_the_check_sees_what_runs(browser: Any, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(f"<!doctype html><title>x</title>{EVIL[0]}")
    with pytest.raises(AssertionError):
        harmless(browser, page.as_uri(), headers={})
