"""How long a newcomer takes: from an empty browser to the first prediction, clicked through by a script.

    .venv/bin/python -m benchmarks.web_path [--runs 3] [--screenshots docs/images/web]

Each run starts the service on an empty data folder and a fresh Chromium, opens the page, takes the sample, tunes with
the defaults and tries a picture that the tuning did not see. With `--screenshots` the views on the way, and dark and
narrow ones, are saved as PNG.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.browser import running_browser, visit
from tests.support.service import Service, running_service
from tests.support.web import pictures_of_digits, until, upload_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Shoot = Callable[["Page", str], None]
STEPS = ("page", "classes", "started", "tuned", "prediction")
"""What is on the screen: the page, the sample's classes, the job, its result, the answer for a picture."""


def walk(browser: Browser, service: Service, shoot: Shoot) -> dict[str, float]:
    """Go the way once; seconds since the address was typed at which each step was reached."""
    reached: dict[str, float] = {}
    picture = next(iter(pictures_of_digits("7", 1, start=3).values()))
    began = time.perf_counter()

    def at(step: str) -> None:
        reached[step] = time.perf_counter() - began

    with visit(browser, service.url) as seen:
        page = seen.page
        page.set_default_timeout(300_000)
        page.get_by_text("This server runs the backbone").wait_for()
        at("page")
        shoot(page, "start")
        page.get_by_role("button", name="Use the sample").click()
        until(page, "document.querySelectorAll('.class-card img').length === 40")
        at("classes")
        shoot(page, "dataset")
        page.get_by_role("button", name="Tune", exact=True).click()
        page.locator(".standing").wait_for()
        at("started")
        until(page, "document.querySelector('.moment')?.textContent.startsWith('all images')")
        shoot(page, "tuning")
        page.locator("#result").wait_for()
        at("tuned")
        page.set_input_files("[data-pick=picture]", upload_of(picture, "7.png", "image/png"))
        page.locator(".answer").nth(1).wait_for()
        at("prediction")
        wrong = page.locator(".cell.wrong button")
        if wrong.count():
            wrong.first.click()
            page.locator(".behind img").first.wait_for()
        shoot(page, "result")
    return reached


def other_views(browser: Browser, service: Service, shoot: Shoot) -> None:
    """The same in the dark and on a phone."""
    model = service.client.get("/models").json()["items"][0]
    picture = next(iter(pictures_of_digits("8", 1, start=5).values()))
    for name, where, sign, how in (
        ("dark", f"#/jobs/{model['job_id']}", "#result", {"dark": True}),
        ("phone", f"#/models/{model['id']}", "#confusion", {"width": 390}),
        ("models", "#/models", ".listing", {}),
    ):
        with visit(browser, f"{service.url}/{where}", **how) as seen:
            seen.page.set_default_timeout(60_000)
            seen.page.locator(sign).wait_for()
            if name != "models":
                seen.page.set_input_files("[data-pick=picture]", upload_of(picture, "8.png", "image/png"))
                seen.page.locator(".answer").nth(1).wait_for()
            shoot(seen.page, name)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--screenshots", type=Path)
    wanted = parser.parse_args()

    def shoot(page: Page, name: str) -> None:
        if wanted.screenshots is not None:
            wanted.screenshots.mkdir(parents=True, exist_ok=True)
            page.wait_for_timeout(400)  # drawings move to their places
            page.screenshot(path=wanted.screenshots / f"{name}.png", full_page=True)

    found: list[dict[str, float]] = []
    for number in range(wanted.runs):
        with (
            tempfile.TemporaryDirectory() as folder,
            running_service(Path(folder) / "data") as service,
            running_browser() as browser,
        ):
            found.append(walk(browser, service, shoot))
            if wanted.screenshots is not None and number == wanted.runs - 1:
                other_views(browser, service, shoot)
    print("| on the screen | seconds, median | least | most |\n|---|---|---|---|")
    for step in STEPS:
        values = [one[step] for one in found]
        print(f"| {step} | {statistics.median(values):.1f} | {min(values):.1f} | {max(values):.1f} |")


if __name__ == "__main__":
    main()
