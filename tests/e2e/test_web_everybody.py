"""The page for everybody: no finding of axe-core in any view, by keyboard, on a phone's width, dark and light."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.browser import running_browser
from tests.support.service import Service
from tests.support.web import at, heading, pictures_of_digits, send_zip, until, upload_of, zipped

pytestmark = pytest.mark.browser
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with running_browser() as running:
        yield running


@pytest.fixture(scope="module")
def job(service: Service) -> dict[str, Any]:
    """A tuning that ended, of pictures with a fault that the audit finds."""
    entries = pictures_of_digits("0258", 6)
    name, content = next((name, data) for name, data in entries.items() if name.startswith("2/"))
    entries[f"5/{name.rpartition('/')[2]}"] = content  # the same picture under another label
    config = {"epochs": 4, "views": 1, "class_names": {"0": "zero"}}
    started = service.tune(zipped(entries), config).json()["id"]
    return service.wait_for_status(started, "succeeded")


def views(service: Service, job: dict[str, Any]) -> dict[str, str]:
    """Address of each view, and what is there once it is drawn."""
    return {
        "": ".drop",
        f"#/datasets/{job['dataset_id']}": ".class-card img",
        f"#/jobs/{job['id']}": "#result",
        f"#/models/{job['model_id']}": "#confusion",
        "#/try": ".choices",
        "#/models": ".listing",
        "#/jobs": ".listing",
        "#/datasets": ".listing",
        "#/models/model_00000000000000000000000000": ".notice.bad",
    }


def no_findings(page: Any) -> None:
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1100, 375])
def test_every_view(service: Service, browser: Any, job: dict[str, Any], width: int, dark: bool) -> None:
    picture = next(iter(pictures_of_digits("8", 1, start=9).values()))
    for where, sign in views(service, job).items():
        with at(browser, service, where, width=width, dark=dark) as seen:
            page = seen.page
            page.locator(sign).first.wait_for()
            if where.startswith("#/datasets/"):
                page.locator("details.advanced > summary").click()
                page.locator("[data-setting=epochs]").wait_for()
            if where == "#/try" or where.startswith(f"#/models/{job['model_id']}"):
                page.set_input_files("[data-pick=picture]", upload_of(picture, "8.png", "image/png"))
                page.locator(".answer").nth(1).wait_for()
            page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
            no_findings(page)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, where
            bright = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
            assert (sum(bright) < 200) == dark
            assert page.locator("h1").count() == 1


def test_dialogs(service: Service, browser: Any, job: dict[str, Any]) -> None:
    with at(browser, service, f"#/models/{job['model_id']}") as seen:
        page = seen.page
        page.get_by_role("button", name="Delete", exact=True).click()
        page.get_by_role("dialog").wait_for()
        no_findings(page)
        assert page.evaluate("document.activeElement.textContent") == "Keep it"
        page.keyboard.press("Escape")
        page.get_by_role("dialog").wait_for(state="detached")


def test_by_keyboard_alone(service: Service, browser: Any) -> None:
    def reach(page: Any, name: str) -> None:
        for _ in range(80):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent.trim()") == name:
                return
        raise AssertionError(f"Tab does not reach {name!r}")

    with at(browser, service) as seen:
        page = seen.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "To the content"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "content"
        reach(page, "Use the sample")
        page.keyboard.press("Enter")
        page.locator(".class-card").nth(9).wait_for()
        until(page, "document.activeElement === document.querySelector('h1')")  # readers begin at the new title
        reach(page, "Advanced")
        page.keyboard.press("Enter")
        page.locator("[data-setting=epochs]").wait_for()
        page.locator("[data-setting=epochs]").focus()
        page.keyboard.type("1")
        page.evaluate("document.querySelector('h1').focus()")
        reach(page, "Tune")
        page.keyboard.press("Enter")
        page.locator("#confusion").wait_for()
        page.evaluate("document.querySelector('#confusion').setAttribute('tabindex', '-1')")
        page.locator("#confusion").focus()
        for _ in range(4):
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.locator(".behind h3").wait_for()


def test_what_happens_is_said(service: Service, browser: Any) -> None:
    with at(browser, service) as seen:
        page = seen.page
        page.evaluate(
            """() => {
                window.said = [];
                new MutationObserver(() => window.said.push(document.getElementById('live').textContent))
                    .observe(document.getElementById('live'), {childList: true, characterData: true, subtree: true});
            }"""
        )
        send_zip(page, zipped(pictures_of_digits("39", 5)), "said.zip")
        page.locator(".class-card").first.wait_for()
        until(page, "window.said.includes('said')")
        page.locator("details.advanced > summary").click()
        page.locator("[data-setting=epochs]").fill("1")
        page.get_by_role("button", name="Tune", exact=True).click()
        until(page, "window.said.some(one => one.endsWith(': succeeded'))")


def test_the_theme_is_chosen_and_kept(service: Service, browser: Any) -> None:
    with at(browser, service, dark=True) as seen:
        page = seen.page
        page.get_by_role("button", name="Theme: system").click()
        page.get_by_role("button", name="Theme: light").wait_for()
        page.reload()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(246, 247, 249)"
        page.get_by_role("button", name="Theme: light").click()
        page.get_by_role("button", name="Theme: dark").click()
        page.get_by_role("button", name="Theme: system").wait_for()
        assert heading(page).inner_text() == "From pictures to a classifier"


def test_without_scripts_the_way_to_the_api_is_shown(service: Service, browser: Any) -> None:
    opened = browser.new_context(java_script_enabled=False)
    try:
        page = opened.new_page()
        page.goto(service.url)
        assert "This page needs JavaScript." in page.locator("body").inner_text()
    finally:
        opened.close()
